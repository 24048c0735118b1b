"""Coarse tasks that make up flows: each resolves its input, computes without side effects, commits, and returns
references.
"""
