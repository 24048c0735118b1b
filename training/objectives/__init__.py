"""Training objectives of a generator: losses, next-code prediction and pretraining of its codes."""
