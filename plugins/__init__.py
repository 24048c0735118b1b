"""Registries of named members: those of sidmill, and those that installed packages declare."""
