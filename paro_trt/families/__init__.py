"""Model families: the interface of one, and a file for each."""
