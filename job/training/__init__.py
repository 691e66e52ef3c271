"""Training: the path of a trial from its line of the grid to its row."""
