"""Releases: manifests, candidates, models, and the pointers that record what is published."""
