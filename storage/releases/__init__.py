"""Releases: manifests, candidates, models, and the pointers that say what is published."""
