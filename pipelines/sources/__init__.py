"""Source files: discovery, format detection, and reading row by row and cell by cell."""
