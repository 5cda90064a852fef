"""EasyDL's clusters and their figures."""
