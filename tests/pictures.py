"""Training transforms with the settings that most tests take."""

from data.image.transforms import TrainTransform


def train_transform(height, width, **settings):
    """A TrainTransform with the flags' defaults, but for what is given."""
    return TrainTransform(
        height, width, **{"short_side": 0, "augment": ("crop", "flip"), "crop_scale": (0.08, 1.0), **settings}
    )
