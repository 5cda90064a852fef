"""Other systems' names as thin doors on the same code."""
