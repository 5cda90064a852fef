"""BatchNorm over the batches of all ranks, on any device."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

import distributed
from core.errors import InputError


class SyncBatchNorm(_BatchNorm):
    """A BatchNorm layer whose statistics are those of all ranks' images; parameters and buffers are `layer`'s own.

    after: parameter-free modules of `layer` that run behind it, {name: module}.
    """

    def __init__(self, layer, after=()):
        super().__init__(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        self._parameters, self._buffers, self.training = layer._parameters, layer._buffers, layer.training
        self.after = tuple(after)
        for name, module in dict(after).items():
            self.add_module(name, module)

    def _check_input_dim(self, maps):
        if maps.ndim < 2:
            raise ValueError(f"expected (B, C, ...), got {tuple(maps.shape)}")

    def forward(self, maps):
        """Maps (B, C, ...) -> the same shape, normalised by channel."""
        if self.training:
            normalised, mean, variance, number = _Normalise.apply(maps, self.weight, self.bias, self.eps)
            if self.track_running_stats:
                self._remember(mean, variance, number)
        else:
            normalised = super().forward(maps)
        for name in self.after:
            normalised = getattr(self, name)(normalised)
        return normalised

    @torch.no_grad()
    def _remember(self, mean, variance, number):
        self.num_batches_tracked += 1
        share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        unbiased = variance * number / (number - 1).clamp_min(1)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


class _Normalise(torch.autograd.Function):
    """(normalised maps, mean (C,), biased variance (C,), number of values a channel); only the first has a gradient.

    Statistics are float32 at least, and the variance is that of the differences from the mean: a mean of squares less
    the square of the mean would cancel.
    """

    @staticmethod
    def forward(ctx, maps, weight, bias, eps):
        rows, shape = _rows(maps)
        number = rows.new_tensor([rows.numel() / rows.shape[1]])
        sums = distributed.all_reduce_sum(torch.cat([rows.sum(_others(rows)), number]))
        mean, number = sums[:-1] / sums[-1], sums[-1]
        variance = distributed.all_reduce_sum((rows - mean.view(shape)).square().sum(_others(rows))) / number
        ctx.save_for_backward(maps, weight, mean, (variance + eps).rsqrt(), number)
        ctx.mark_non_differentiable(mean, variance, number)
        return F.batch_norm(maps, mean, variance, weight, bias, training=False, eps=eps), mean, variance, number

    @staticmethod
    @once_differentiable
    def backward(ctx, slope, *_):
        maps, weight, mean, scale, number = ctx.saved_tensors
        rows, shape = _rows(maps)
        slopes, _ = _rows(slope)
        normalised = (rows - mean.view(shape)) * scale.view(shape)
        to_bias, to_weight = slopes.sum(_others(rows)), (slopes * normalised).sum(_others(rows))
        along_mean, along_scale = (distributed.all_reduce_sum(torch.stack([to_bias, to_weight])) / number).view(
            2, *shape
        )
        factor = scale if weight is None else scale * weight
        to_maps = (slopes - along_mean - normalised * along_scale) * factor.view(shape)
        gradients = (None, None) if weight is None else (to_weight.to(weight.dtype), to_bias.to(weight.dtype))
        return to_maps.to(maps.dtype), *gradients, None


def _rows(maps):
    """Maps in float32 at least, and the shape that spreads numbers (C,) over them."""
    return maps.float() if maps.dtype.itemsize < 4 else maps, (1, -1) + (1,) * (maps.ndim - 2)


def _others(maps):
    """All axes but that of the channels."""
    return [axis for axis in range(maps.ndim) if axis != 1]


def synchronise(model):
    """Put SyncBatchNorm in place of every BatchNorm layer of `model` that is being trained, in place.

    Frozen layers stay: they read no statistics of a batch. Raises InputError for a layer of a kind that is not known.
    """
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, _BatchNorm) and any(weight.requires_grad for weight in layer.parameters()):
                setattr(parent, name, _synchronised(layer))


def _synchronised(layer):
    after = dict(layer.named_children())  # timm's BatchNormAct2d holds the activation behind it
    kind = type(layer)
    known = kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d) or set(after) == {"drop", "act"}
    if not known or any(True for module in after.values() for _ in module.parameters()):
        raise InputError(
            f"--sync_bn: the model has layers {kind.__name__}, of which only BatchNorm1d to 3d can be synced"
        )
    return SyncBatchNorm(layer, after)
