"""ECAPA-TDNN."""
