"""Source files: finding them, recognising their format, and reading them row by row and cell by cell."""
