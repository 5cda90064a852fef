"""Sounds: files read, brought to one rate and one channel, cut, changed for training, and drawn."""
