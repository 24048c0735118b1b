"""Whole runs on a synthetic shop of any size: time, memory, bytes, and requests of an object store."""
