"""BatchNorm over the batches of all ranks, on any device."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

import distributed
from core.errors import InputError


def refuse_micro_batches(sync_bn: bool, micro_batch: int) -> None:
    """Raise InputError where several ranks are to share statistics that would be those of a micro-batch each."""
    if sync_bn and micro_batch and distributed.world_size() > 1:
        raise InputError("--sync_bn makes no sense with --micro_batch, of which BatchNorm sees one at a time")


def synchronise(model: nn.Module) -> None:
    """Put SyncBatchNorm in place of every BatchNorm layer of `model` that is being trained, in place.

    Frozen layers stay: they read no statistics of a batch. Raises InputError for a layer of a kind that is not known.
    """
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            is_trained = any(weight.requires_grad for weight in layer.parameters())
            if isinstance(layer, _BatchNorm) and is_trained:
                setattr(parent, name, _synchronised(layer))


def _synchronised(layer: _BatchNorm) -> "SyncBatchNorm":
    # timm's BatchNormAct2d holds the activation behind it as modules of its own.
    following = dict(layer.named_children())
    kind = type(layer)
    is_known = kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d) or set(following) == {"drop", "act"}
    has_weights = any(True for module in following.values() for _ in module.parameters())
    if not is_known or has_weights:
        raise InputError(
            f"--sync_bn: the model has layers {kind.__name__}, of which only BatchNorm1d to 3d can be synced"
        )
    return SyncBatchNorm(layer, following)


class SyncBatchNorm(_BatchNorm):
    """A BatchNorm layer whose statistics are those of all ranks' images; parameters and buffers are `layer`'s own.

    following: parameter-free modules of `layer` that run behind it, {name: module}.
    """

    def __init__(self, layer: _BatchNorm, following: Mapping[str, nn.Module] | None = None):
        super().__init__(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        self._parameters = layer._parameters
        self._buffers = layer._buffers
        self.training = layer.training
        self.following = tuple(following or {})
        for name in self.following:
            self.add_module(name, following[name])

    def _check_input_dim(self, maps: torch.Tensor) -> None:
        if maps.ndim < 2:
            raise ValueError(f"expected (B, C, ...), got {tuple(maps.shape)}")

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps (B, C, ...) -> the same shape, normalised by channel."""
        if self.training:
            normalised, mean, variance, number = _Normalise.apply(maps, self.weight, self.bias, self.eps)
            if self.track_running_stats:
                self._update_running(mean, variance, number)
        else:
            normalised = super().forward(maps)
        for name in self.following:
            normalised = getattr(self, name)(normalised)
        return normalised

    @torch.no_grad()
    def _update_running(self, mean: torch.Tensor, variance: torch.Tensor, number: torch.Tensor) -> None:
        self.num_batches_tracked += 1
        if self.momentum is None:
            weight = 1 / self.num_batches_tracked
        else:
            weight = self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
        unbiased = variance * number / (number - 1).clamp_min(1)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), weight)


class _Normalise(torch.autograd.Function):
    """(normalised maps, mean (C,), biased variance (C,), number of values a channel); only the first has a gradient.

    Statistics are float32 at least, and the variance is that of the differences from the mean: a mean of squares less
    the square of the mean would cancel.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, maps: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        values = _at_least_float32(maps)
        shape = _channel_shape(maps)
        axes = _other_axes(maps)
        # Sums and the number of values travel together, since ranks may have different numbers of images.
        number = values.new_tensor([values.numel() / values.shape[1]])
        sums = distributed.all_reduce_sum(torch.cat([values.sum(axes), number]))
        number = sums[-1]
        mean = sums[:-1] / number
        squares = (values - mean.view(shape)).square().sum(axes)
        variance = distributed.all_reduce_sum(squares) / number
        ctx.save_for_backward(maps, weight, mean, (variance + eps).rsqrt(), number)
        ctx.mark_non_differentiable(mean, variance, number)
        normalised = F.batch_norm(maps, mean, variance, weight, bias, training=False, eps=eps)
        return normalised, mean, variance, number

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, slope: torch.Tensor, *_: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None, None]:
        maps, weight, mean, scale, number = ctx.saved_tensors
        shape = _channel_shape(maps)
        axes = _other_axes(maps)
        slopes = _at_least_float32(slope)
        normalised = (_at_least_float32(maps) - mean.view(shape)) * scale.view(shape)
        to_bias = slopes.sum(axes)
        to_weight = (slopes * normalised).sum(axes)
        # The statistics depend on all ranks' maps, so the slopes along them are sums over the ranks.
        along_statistics = distributed.all_reduce_sum(torch.stack([to_bias, to_weight])) / number
        along_mean, along_scale = along_statistics.view(2, *shape)
        factor = scale if weight is None else scale * weight
        to_maps = (slopes - along_mean - normalised * along_scale) * factor.view(shape)
        to_maps = to_maps.to(maps.dtype)
        if weight is None:
            return to_maps, None, None, None
        # Those of weight and bias are this rank's share: they are summed with all other gradients.
        return to_maps, to_weight.to(weight.dtype), to_bias.to(weight.dtype), None


def _at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dtype.itemsize < 4:
        return tensor.float()
    return tensor


def _channel_shape(maps: torch.Tensor) -> tuple[int, ...]:
    """The shape that spreads numbers (C,) over maps."""
    return (1, -1) + (1,) * (maps.ndim - 2)


def _other_axes(maps: torch.Tensor) -> list[int]:
    """All axes but that of the channels."""
    return [axis for axis in range(maps.ndim) if axis != 1]
