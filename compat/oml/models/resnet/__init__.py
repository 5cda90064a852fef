"""torchvision's ResNets."""
