"""Quantizers: one module each, registered in `registry.py`, with the interface of `protocol.py`."""
