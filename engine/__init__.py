"""The training engine: it is handed objects, and knows no flag and no data set."""
