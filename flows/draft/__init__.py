"""`sidmill recipe init`: a commented recipe, proposed from a sample of the data."""
