"""What a generator is trained for: losses, next-code prediction and the pretraining of its codes."""
