"""Losses whose gradient is made beside their value, in closed form: no graph is kept and none is gone through."""

import torch
from torch.autograd.function import once_differentiable

from losses._threads import one_thread_if_small


def with_gradient(value: torch.Tensor, of: torch.Tensor, gradient: torch.Tensor | None) -> torch.Tensor:
    """The scalar `value`, to which the gradient of a tensor, say the embeddings (B, D), is added: this one, of the
    tensor's shape, None where none is wanted."""
    if gradient is None:
        return value
    return KnownGradient.apply(value, of, gradient)


def wants_gradient(of: torch.Tensor) -> bool:
    """Whether anybody will ask for the gradient of what is made of this tensor now."""
    return of.requires_grad and torch.is_grad_enabled()


def softmax_and_log_sums(numbers: torch.Tensor, dim: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax along `dim` of numbers (m, C), and the logarithms of the sums of exponentials, whose slopes it is.

    One softmax is the quickest exponential, and its greatest share tells the sum.
    """
    shares = numbers.softmax(dim)
    return shares, numbers.amax(dim) - shares.amax(dim).log()


class KnownGradient(torch.autograd.Function):
    """A value whose gradient is known when it is made."""

    @staticmethod
    def forward(ctx, value, of, gradient):
        ctx.save_for_backward(gradient)
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        # A loss that has nearly as large tables as its gradient works with one thread, too.
        with one_thread_if_small(gradient.device, len(gradient) ** 2):
            # A value that has a gradient to another tensor already hands it on.
            return upstream if ctx.needs_input_grad[0] else None, upstream * gradient, None
