"""An index on the disk: made, added to, taken from, searched."""
