"""Hashes of contents, made in this process or in one beside it."""
