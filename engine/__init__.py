"""The training engine: it is handed objects and knows no loss, model or data set by name."""
