"""From flags to objects and back."""
