"""Registries: members of a kind by name, those of sidmill and those that installed packages declare."""
