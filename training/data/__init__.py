"""The log loader: user histories as batches of SID tokens."""
