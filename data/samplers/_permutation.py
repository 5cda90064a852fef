"""A random order that is computed for each position when it is asked for, and stands nowhere."""

import numpy as np

ROUNDS = 8  # even, so that the halves of a number are as wide after them as before
SMALL = 2**16  # positions up to which the order is drawn and kept
MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of SplitMix64 (Steele et al., OOPSLA 2014)


class Permutation:
    """A permutation of 0 … size-1 by a key, whole numbers of 0 or more: position to value, in any order, at any time.

    It is a Feistel network on the bits of a position (Luby and Rackoff, SIAM Journal on Computing, 1988), which is a
    bijection of 2^b numbers whatever its round function; a value that is not below `size` goes through it again until
    one is (cycle walking: Black and Rogaway, CT-RSA 2002), less than twice in the mean. A small one is drawn.
    """

    def __init__(self, size: int, *key: int):
        self.size = size
        self.table = None
        if size <= SMALL:
            self.table = np.random.default_rng(key).permutation(size)
            return
        bits = (size - 1).bit_length()
        self.right_bits = bits // 2
        self.left_bits = bits - self.right_bits
        self.round_keys = np.random.SeedSequence(key).generate_state(ROUNDS, np.uint64)

    def __len__(self) -> int:
        return self.size

    def __call__(self, positions: np.ndarray | slice) -> np.ndarray:
        """The values at some positions, (n,) int64."""
        if isinstance(positions, slice):
            positions = np.arange(*positions.indices(self.size))
        if self.table is not None:
            return self.table[positions]
        values = self._network(np.asarray(positions).astype(np.uint64))
        outside = np.flatnonzero(values >= self.size)
        while len(outside):
            values[outside] = self._network(values[outside])
            outside = outside[values[outside] >= self.size]
        return values.astype(np.int64)

    def _network(self, values: np.ndarray) -> np.ndarray:
        """The bijection of all numbers of so many bits, (n,) uint64."""
        left_bits, right_bits = self.left_bits, self.right_bits
        left = values >> np.uint64(right_bits)
        right = values & _ones(right_bits)
        for key in self.round_keys:
            left, right = right, left ^ (_mixed(right + key) & _ones(left_bits))
            left_bits, right_bits = right_bits, left_bits
        return left << np.uint64(right_bits) | right


def _ones(bits: int) -> np.uint64:
    return np.uint64(2**bits - 1)


def _mixed(values: np.ndarray) -> np.ndarray:
    """The last steps of SplitMix64: every bit of a number has a say in every bit of the result, (n,) uint64."""
    for shift, multiplier in zip((30, 27), MULTIPLIERS, strict=True):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(multiplier)
    return values ^ (values >> np.uint64(31))
