"""Ingest: rows of sources become items and events of the lake, or quarantine rows with a reason."""
