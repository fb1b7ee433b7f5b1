"""Studies of continual learning: what models learn, and what they forget."""
