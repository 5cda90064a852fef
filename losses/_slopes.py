"""Losses whose gradient is made beside their value, in closed form: no graph is kept and none is gone through."""

import torch
from torch.autograd.function import once_differentiable

from losses._threads import one_thread_if_small


def with_gradient(value: torch.Tensor, embeddings: torch.Tensor, gradient: torch.Tensor | None) -> torch.Tensor:
    """The scalar `value` with a gradient to the embeddings (B, D): this one (B, D), None where none is wanted."""
    if gradient is None:
        return value
    return KnownGradient.apply(embeddings, value, gradient)


def wants_gradient(embeddings: torch.Tensor) -> bool:
    """Whether anybody will ask for the gradient of what is made of the embeddings now."""
    return embeddings.requires_grad and torch.is_grad_enabled()


class KnownGradient(torch.autograd.Function):
    """A value whose gradient is known when it is made."""

    @staticmethod
    def forward(ctx, embeddings, value, gradient):
        ctx.save_for_backward(gradient)
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        # A loss that has nearly as large tables as its gradient works with one thread, too.
        with one_thread_if_small(gradient.device, len(gradient) ** 2):
            return upstream * gradient, None, None
