"""Retention: what stays in a lake, what goes, and copies of what must not be lost."""
