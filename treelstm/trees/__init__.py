"""JSON ASTs -> a forest of distinct subtrees -> batches."""
