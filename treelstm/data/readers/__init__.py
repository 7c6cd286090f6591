"""Trees from what parsers write: each reader makes JSON ASTs of a file, or says what is wrong."""
