"""Parts that every training shares: `Trainable`, the loop, checkpoints, the optimizer and the errors."""
