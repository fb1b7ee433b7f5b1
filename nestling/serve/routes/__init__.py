"""What the server answers to, an area of paths a file."""
