"""What everything that is trained shares: `Trainable`, the loop, checkpoints, the optimizer and the errors."""
