"""Networks around other networks."""
