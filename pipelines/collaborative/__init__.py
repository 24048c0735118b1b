"""Collaborative vectors: item vectors learned from user behaviour."""
