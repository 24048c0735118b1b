"""The places where stages run: in this process or on Ray, on a cluster started here or at an address."""
