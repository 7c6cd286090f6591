"""Pairs of trees: what they are, how their files are read, the compiled corpus, a sample."""
