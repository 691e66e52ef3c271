"""A trial from its grid line to its row."""
