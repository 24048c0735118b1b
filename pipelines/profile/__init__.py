"""What a sample of a source shows: its columns, what they may mean, and public formats that it looks like."""
