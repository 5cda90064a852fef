"""The table of layers that heads are made of.

A layer takes (B, in_features) to (B, out_features). One that is a matrix and a bias, and may be solved in a closed form
therefore, has `prepared`: what the matrix is multiplied by.
"""

from core.registry import Registry

HEADS = Registry("head")
