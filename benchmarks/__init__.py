"""Speed beside limits and peers; each file a program of its own."""
