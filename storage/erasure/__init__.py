"""Erasure: rows of a person or an item leave every version of every table, and every file beside them."""
