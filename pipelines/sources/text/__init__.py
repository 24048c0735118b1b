"""Texts: CSV, TSV and JSON lines, as columns where a block is plain, else line by line."""
