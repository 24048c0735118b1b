"""Streams of messages as sources: each run reads what came since the run before."""
