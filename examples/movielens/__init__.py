"""The demo: MovieLens-100K through every noun of sidmill, as the commands a person would type."""
