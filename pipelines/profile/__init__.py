"""Profile of a source from a sample: its columns, what they may mean, and public formats that it looks like."""
