"""How far two right answers may be apart: bounds from the type, the number of operations and the size of the numbers.

A sum of n terms has another rounding error on each processor, since kernels add in another order, in blocks, with fused
multiply-add or without. What holds for all of them is the bound of Higham, Accuracy and Stability of Numerical
Algorithms, 2nd edition (2002), of which the sections are named below. A test that compares numbers says by these
functions what it compares: how many operations, in which type, on numbers of which size. `SHARES=1` in the environment
makes pytest print the largest error of each test as a share of what was allowed (docs/trust.md).
"""

import contextlib
import math
import sys
import unittest.mock
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

UNITS = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
SHARES: dict[str, tuple[float, str]] = {}  # test function: (largest share of the allowed error, the line it was on)
COMPARED: dict[str, float] = {}  # what the test that is running has compared, for its report


def gamma(operations: float, dtype: torch.dtype = torch.float64) -> float:
    """n u / (1 - n u): the relative error of a number after n roundings, whatever their order (Higham, lemma 3.1).

    n terms that are added in any order: the error is gamma(n) times the sum of their absolute values (section 4.2);
    a dot product: gamma(n) |x|.|y| (eq. 3.5). Library functions (exp, log, a root) count as two operations.
    """
    error = operations * UNITS[dtype]
    assert error < 1, f"{operations} operations in {dtype} prove nothing"
    return error / (1 - error)


def likely_gamma(operations: float, dtype: torch.dtype = torch.float32, sigmas: float = 8.0) -> float:
    """exp(s sqrt(n) u + n u^2 / (1 - u)) - 1: what gamma(n) is where rounding errors are independent, of mean zero.

    Higham and Mary, A New Approach to Probabilistic Rounding Error Analysis, SIAM J. Sci. Comput. 41 (2019), theorem
    2.4: it fails with a chance of 2 exp(-s^2 (1 - u)^2 / 2), 3e-14 a number at 8. For sums of hundreds of terms in
    float32, where gamma(n) is so wide that it would let errors pass that are no rounding.
    """
    unit = UNITS[dtype]
    return math.expm1(sigmas * math.sqrt(operations) * unit + operations * unit**2 / (1 - unit))


def about(expected: float | list | dict, operations: float, dtype: torch.dtype = torch.float64, size: float = 0.0):
    """pytest.approx of numbers that took so many operations on numbers of at most `size`, or of their own size."""
    error = gamma(operations, dtype)
    return pytest.approx(expected, rel=error, abs=error * size)


def decimal_error(decimals: int) -> float:
    """Half a unit in the last decimal: how far a printed number is from the one that was printed."""
    return 0.5 * 10.0**-decimals * (1 + 2.0**-20)


def share_error(chance: float, draws: int, sigmas: float = 5.0) -> float:
    """How far the share of so many independent draws may be from its chance: sigmas of the binomial distribution."""
    return sigmas * math.sqrt(chance * (1 - chance) / draws)


def fixed_point(bits: int, taps: int) -> float:
    """Grey levels by which a weighted sum of `taps` uint8 numbers is off: coefficients of so many bits, then rounding.

    A coefficient is off by half a unit of 2^-bits, on numbers up to 255; the sum is rounded to an integer.
    """
    return 0.5 + taps * 255 * 2.0 ** -(bits + 1)


def cross_entropy(size: float, terms: int, classes: int, dtype: torch.dtype = torch.float64) -> tuple[float, float]:
    """(error of the value, relative error of its shares) of a mean of log-sum-exps over `classes` less own scores.

    size: the largest absolute value that the terms of a score add up to; terms: operations that make a score. A score
    is off by e = gamma(terms) size, the sum of the exponentials by a share s = gamma(classes) of itself. The value
    takes e twice, since log sum exp moves no more than its largest argument. A gradient is the sum of (share - target)
    times the slope of a score, where share = exp(score - log sum) is off by (2 e + s) of itself: so the gradient is off
    by (2 e + s) times the sum of (share + target) |slope|.
    """
    score, total = gamma(terms, dtype) * size, gamma(classes + 8, dtype)
    return 2 * score + total * (1 + size), 2 * score + total


def cosine_error(width: int) -> float:
    """How far an exact cosine of retrieval/exact.py is from the cosine of two rows of so many numbers.

    It is rounded to float32 once, and both rows' numbers to multiples of 2^-26, which moves a row by up to sqrt(width)
    2^-27.
    """
    return 2.0**-24 + 2 * math.sqrt(width) * 2.0**-27


def score_error(distance: str, *tables) -> float:
    """How far a float32 score of two rows of `tables` (N, D), which have one space, is from the exact one.

    Cosines: numbers of unit vectors, rounded three times each, in a dot product of D terms, whose absolute values add
    up to 1 at most. Squared distances: 2 S^2 (x.y - |x|^2 / 2 - |y|^2 / 2), where rows less the middle of their box are
    divided by S, the power of 2 from the longest's length on, so that the terms add up to 2 at most.
    """
    rows = torch.cat([torch.as_tensor(table).double() for table in tables])
    if distance == "cosine":
        return gamma(rows.shape[1] + 8, torch.float32) + 2.0**-24
    longest = (rows - (rows.amax(0) + rows.amin(0)) / 2).norm(dim=1).max().item()
    scale = 2.0 ** math.ceil(math.log2(longest)) if longest else 1.0
    return gamma(rows.shape[1] + 12, torch.float32) * 2 * 2 * scale**2


def longest_sum(net: nn.Module) -> int:
    """Terms of the longest dot product among a network's convolutions and linear layers."""
    return max(layer.weight[0].numel() for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear))


def sensitivity(
    net: nn.Module,
    compute: Callable[[], Mapping[str, torch.Tensor]],
    relative: float = 2.0**-26,
    draws: int = 3,
) -> dict[str, torch.Tensor]:
    """{name: how far each number of a result of compute() moves, for a relative change of 1 in every layer of `net`}.

    A layer is backward stable: whatever the kernel, its output is the exact one of weights and inputs that are off by
    gamma(n), n being its longest sum (Higham, section 3.5). So a network's result is off by gamma(n) times this number,
    the condition of the whole (section 1.6); bounds of deep networks a priori multiply |W| of all layers and prove
    nothing. It is measured: weights, and what each layer hands on and is handed back, are moved up or down at random by
    `relative`, which has to be far above the type's rounding; the largest move of `draws` counts. Random signs are no
    worst case, and neither are rounding errors; that gamma(n) grows with n and not with its root leaves room for both.
    """
    expected = {name: value.detach().double().clone() for name, value in compute().items()}
    moved = {name: torch.zeros_like(value) for name, value in expected.items()}
    for seed in range(draws):
        with rattled(net, relative, seed):
            for name, value in compute().items():
                own = (value.detach().double() - expected[name]).abs() / relative
                moved[name] = torch.maximum(moved[name], own)
    return moved


def least_cosine(expected: torch.Tensor, moves: torch.Tensor, error: float) -> torch.Tensor:
    """Cosines (N,) to the rows of `expected` (N, D) that rows have at least whose layers are off by `error`.

    moves (N, D): as `sensitivity` gives them. What a row moves by, over its length, is the sine of the angle.
    """
    sines = error * moves.norm(dim=1) / expected.double().norm(dim=1)
    return (1 - sines.square()).sqrt() - gamma(100)  # the last for the cosine itself, in float64


@contextlib.contextmanager
def rattled(net: nn.Module, relative: float, seed: int = 0) -> Iterator[nn.Module]:
    """`net` within a context in which `rattle` shakes it; after it, it is as it was."""
    before = [parameter.detach().clone() for parameter in net.parameters()]
    handles = rattle(net, relative, seed)
    try:
        yield net
    finally:
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for parameter, value in zip(net.parameters(), before, strict=True):
                parameter.copy_(value)


def rattle(net: nn.Module, relative: float, seed: int = 0) -> Iterable[torch.utils.hooks.RemovableHandle]:
    """Move the weights of `net`, in place, by +- `relative`, and in each call the first layer's input and all outputs.

    The factors of an output are those of its gradient, too. Returns the hooks' handles.
    """
    # Numpy's generator: torch's own normal and uniform numbers differ between instruction sets, and belong to the net.
    rng = np.random.default_rng(seed)

    def factors(numbers: torch.Tensor) -> torch.Tensor:
        signs = rng.integers(0, 2, tuple(numbers.shape)) * 2 - 1
        return 1 + relative * torch.as_tensor(signs, dtype=numbers.dtype)

    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(factors(parameter))
    leaves = [module for module in net.modules() if not list(module.children())]
    # Numbers of tokens are exact.
    first = leaves[0].register_forward_pre_hook(
        lambda layer, inputs: tuple(one * factors(one) if one.is_floating_point() else one for one in inputs)
    )
    hooks = [leaf.register_forward_hook(lambda layer, inputs, output: output * factors(output)) for leaf in leaves]
    return [first, *hooks]


def assert_within(found, expected, allowed) -> None:
    """Every number of `found` is no farther from that of `expected` than `allowed` says: a number, or one for each.

    Tensors, arrays, lists or numbers of one shape, or one number that all are expected to be, compared in float64;
    equal infinities are equal, NaN never is.
    """
    found, expected, allowed = (_float64(numbers) for numbers in (found, expected, allowed))
    assert expected.shape in (found.shape, ()), f"shapes {found.shape} and {expected.shape}"
    expected = np.broadcast_to(expected, found.shape)
    if not found.size:
        return
    same = found == expected
    with np.errstate(invalid="ignore", divide="ignore"):
        differences = np.where(same, 0.0, np.abs(found - expected))
        shares = np.where(same, 0.0, differences / allowed)
    shares = np.where(np.isnan(shares), np.inf, shares)
    worst = np.unravel_index(shares.argmax(), shares.shape)
    _note(float(shares[worst]))
    _count(differences, float(shares[worst]))
    assert shares[worst] <= 1, (
        f"{found[worst]!r} is {abs(found[worst] - expected[worst]):.3g} from {expected[worst]!r} at {worst}, "
        f"{np.broadcast_to(allowed, shares.shape)[worst]:.3g} is allowed; {(shares > 1).sum()} of {shares.size} are off"
    )


def _float64(numbers) -> np.ndarray:
    if torch.is_tensor(numbers):
        numbers = numbers.detach().double().cpu().numpy()
    return np.asarray(numbers, dtype=np.float64)


def _count(differences: np.ndarray, share: float | None = None) -> None:
    """Add to what the running test has compared: how many numbers, and how far the worst is off."""
    COMPARED["numbers compared"] = COMPARED.get("numbers compared", 0) + differences.size
    COMPARED["largest difference"] = max(float(differences.max()), COMPARED.get("largest difference", 0.0))
    if share is not None:
        name = "largest share of the allowed"
        COMPARED[name] = max(share, COMPARED.get(name, 0.0))


@contextlib.contextmanager
def closeness_counted() -> Iterator[None]:
    """torch.testing.assert_close, within a context, counts the numbers that it finds close, as assert_within does."""
    plain = torch.testing.assert_close

    def counting(actual, expected, **options) -> None:
        plain(actual, expected, **options)
        if torch.is_tensor(actual) and actual.is_floating_point() and actual.numel():
            found, wanted = _float64(actual), _float64(expected)
            _count(np.where(np.isfinite(found), np.abs(found - wanted), 0.0))

    with unittest.mock.patch.object(torch.testing, "assert_close", counting):
        yield


def _note(share: float) -> None:
    """Keep the largest share of each test function that calls assert_within."""
    frame = sys._getframe(2)
    while frame.f_back is not None and not frame.f_code.co_name.startswith("test_"):
        frame = frame.f_back
    place = f"{Path(frame.f_code.co_filename).stem}::{frame.f_code.co_name}"
    if share >= SHARES.get(place, (-1.0, ""))[0]:
        SHARES[place] = share, f"line {frame.f_lineno}"
