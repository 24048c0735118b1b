"""Training sequences: the log joined with SIDs, user by user in the order of time."""
