"""What is done to an input before its network takes it."""
