"""Audits: what a release holds out decides nothing that is made."""
