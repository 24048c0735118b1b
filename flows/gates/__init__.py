"""Gates: conditions for the publication of a release or a model."""
