"""Which reader a transform needs."""

from collections.abc import Callable

from compat.oml.utils.images.images import imread_cv2, imread_pillow


def takes_arrays(transform: Callable) -> bool:
    """Whether a transform is one of albumentations, which takes arrays by the name `image`."""
    return type(transform).__module__.partition(".")[0] == "albumentations"


def get_im_reader_for_transforms(transforms: Callable | None) -> Callable:
    """The reader that gives what a transform takes."""
    if transforms is not None and takes_arrays(transforms):
        return imread_cv2
    return imread_pillow


TTransforms = Callable

__all__ = ["TTransforms", "get_im_reader_for_transforms", "takes_arrays"]
