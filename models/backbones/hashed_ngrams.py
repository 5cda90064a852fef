"""A small network for texts that needs no package and no vocabulary: n-grams of characters by their hashes."""

import functools
import unicodedata
import zlib

import torch
from torch import nn

from models.backbones._row import BACKBONES, Backbone, TextInput

BUCKETS, WIDTH = 2**15, 128  # numbers that n-grams are hashed to; of each an embedding so wide
LENGTHS = (3, 4, 5)  # characters of an n-gram; a whole word is one as well
MOST_TOKENS = 256  # of a text; about thirty words
REMEMBERED = 100_000  # words of which a process keeps the numbers
STAGES = (("embedding",),)


@BACKBONES.register(
    "HashedNgrams",
    modality="text",
    output="tokens",
    weights=(),
    width=128,
    parameters=4_194_304,
    licence="that of this repository",
    origin="none",
)
def hashed_ngrams(name: str) -> Backbone:
    """Texts of any language and script by n-grams of their characters; made to be trained, no weights are published."""
    return Backbone(lambda weights: HashedNgrams(), WIDTH, STAGES, TextInput(NgramTokenizer), modality="text")


class HashedNgrams(nn.Module):
    """Numbers of n-grams (B, N) to tokens (B, N, WIDTH), an embedding each; pooling and head do the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(BUCKETS, WIDTH)
        # At first what n-grams two texts share decides alone: random directions are nearly at right angles.
        nn.init.normal_(self.embedding.weight, std=WIDTH**-0.5)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        # Padding takes any embedding: the pooling leaves it out.
        return self.embedding(numbers.clamp(min=0))


class NgramTokenizer:
    """A text to the numbers of its n-grams: of each word, in lower case between `<` and `>`, those of LENGTHS, and it
    as a whole. A number is CRC-32 of the UTF-8, modulo BUCKETS: the same on every machine."""

    fingerprint = f"CRC-32 modulo {BUCKETS} of n-grams of {LENGTHS}, NFKC, lower case"

    def __call__(self, text: str) -> list[int]:
        numbers = []
        for word in unicodedata.normalize("NFKC", text).lower().split():
            numbers += ngrams_of_word(word)
            if len(numbers) >= MOST_TOKENS:
                break
        # A text of nothing but what normalisation takes away is an empty word.
        return numbers[:MOST_TOKENS] or list(ngrams_of_word(""))


@functools.lru_cache(REMEMBERED)
def ngrams_of_word(word: str) -> tuple[int, ...]:
    """The numbers of a word's n-grams, those of the whole word first."""
    bounded = f"<{word}>"
    pieces = [bounded]
    for length in LENGTHS:
        if length < len(bounded):
            pieces += [bounded[start : start + length] for start in range(len(bounded) - length + 1)]
    return tuple(zlib.crc32(piece.encode(errors="surrogatepass")) % BUCKETS for piece in pieces)
