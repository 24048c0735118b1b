"""The event log as later stages read it: the events visible to a run, their order, and reading user by user."""
