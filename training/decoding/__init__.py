"""Beam search over the trie."""
