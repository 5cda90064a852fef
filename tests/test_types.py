"""What a flag's text may be: the parsers of single values."""

import argparse

import pytest

from core import types
from core.sources import table_keys
from core.types import SomeOf

AUGMENT = SomeOf("data.image.augmentations:AUGMENTATIONS")
AUGMENTATIONS = table_keys("data.image.augmentations:AUGMENTATIONS")
GOOD = [
    (types.boolean, "True", True),
    (types.boolean, "true", True),
    (types.boolean, "1", True),
    (types.boolean, "False", False),
    (types.boolean, "0", False),
    (types.integers, "15000,25000", (15000, 25000)),
    (types.integers, "7", (7,)),
    (types.integers, "", ()),
    (types.image_shape, "3,224,192", (3, 224, 192)),
    (types.fractions, "0.08,1", (0.08, 1.0)),
    (types.positive, "12", 12),
    (types.workers, "auto", "auto"),
    (types.workers, "3", 3),
    (types.byte_size, "0", 0),
    (types.byte_size, "2GB", 2 * 10**9),
    (types.byte_size, "1.5mb", 1500000),
    (types.byte_size, "2000000000", 2 * 10**9),
    (types.one_of(("fp32", "bf16")), "bf16", "bf16"),
    (AUGMENT, "none", ()),
    (AUGMENT, "", ()),
    (AUGMENT, "flip,crop", ("crop", "flip")),
    (AUGMENT, ",".join(reversed(AUGMENTATIONS)), tuple(AUGMENTATIONS)),
]
BAD = [
    (types.boolean, ["", "2", "yes", "None"]),
    (types.integers, ["a", "1.5", "1 2"]),
    (types.image_shape, ["", "224", "1,224,224", "3,0,224", "3,-1,8", "3,2,2,2"]),
    (types.fractions, ["", "1", "0,1", "0.5,0.4", "0.5,1.1", "nan,1", "a,b", "0.1,0.2,0.3"]),
    (types.positive, ["0", "-1", "1.5", ""]),
    (types.workers, ["", "-1", "many", "1.5"]),
    (types.byte_size, ["", "GB", "-1", "2 GB", "2TB", "nan", "1e9"]),
    (types.one_of(("fp32", "bf16")), ["", "fp16", "BF16"]),
    (AUGMENT, ["gray"]),
]


@pytest.mark.parametrize("kind, text, value", GOOD)
def test_value(kind, text, value):
    assert kind(text) == value and type(kind(text)) is type(value)


@pytest.mark.parametrize("kind, text", [(kind, text) for kind, texts in BAD for text in texts])
def test_refused_value(kind, text):
    with pytest.raises(argparse.ArgumentTypeError) as refusal:
        kind(text)
    assert repr(text) in str(refusal.value)


@pytest.mark.parametrize("value", [(3, 224, 224), (0.08, 1.0), (), 7, 1e-4, True, "a,b"])
def test_plain_is_what_one_types(value):
    typed = {(): "", (3, 224, 224): "3,224,224", (0.08, 1.0): "0.08,1.0"}.get(value, str(value))
    assert types.plain(value) == typed
    assert types.plain(list(value) if isinstance(value, tuple) else value) == typed  # as JSON gives it back
