"""The texts and folders that lists are, each read to columns."""
