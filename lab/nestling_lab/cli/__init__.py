"""Commands that a checkout adds to the command line."""
