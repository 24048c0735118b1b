"""Collaborative vectors: what users did, as a vector of each item."""
