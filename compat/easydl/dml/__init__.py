"""EasyDL's deep metric learning: models, losses, training, figures."""
