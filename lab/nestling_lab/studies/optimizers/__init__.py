"""Studies of optimizers: toy problems with a clear cause, and real training."""
