"""Gates: what a release and a model must hold to be published."""
