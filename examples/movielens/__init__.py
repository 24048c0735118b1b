"""The demo: MovieLens-100K through all parts of sidmill, as the commands a person would type."""
