"""What is done to results."""
