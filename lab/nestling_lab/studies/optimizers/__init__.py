"""What the optimizers are worth: toys where the cause can be seen, and real training."""
