"""The log of events as later stages read it: what a run may see of it, in what order, and user by user."""
