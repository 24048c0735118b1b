"""Profile of a source from a sample: its columns, their possible meaning, and public data sets that match."""
