"""Images as arrays and pictures."""
