"""One training run: its state, its steps, the loop, and the directory it is committed to."""
