"""Image files to arrays, and arrays to what a network takes."""
