"""Where a network looks: attention rollout of a transformer, Grad-CAM of what makes feature maps."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from core.errors import InputError
from models.backbones import BACKBONES
from models.embedder import Embedder
from models.pooling import TokenPooling

ROLLOUT, GRAD_CAM = "attention rollout", "Grad-CAM"
MOST_PREFIX_TOKENS = 16  # class token and registers, where a row does not say how many it has


class AttentionMaps:
    """Maps (h, w) of the parts of an image that an Embedder's embedding of it comes from.

    A network whose attention can be had is asked for it layer by layer, and these are rolled out from the token that
    is pooled to the patches: that looks at the image alone. Any other one that makes feature maps, or tokens of a grid,
    is asked by Grad-CAM what makes it similar to a target, such as the embedding of its best hit: retrieval has no
    class whose score could be taken. The score is the dot product of the embedding, as it is, with the target, in which
    each place of mean-pooled maps has its share (Stylianou et al., 2019, arXiv 1901.00536). It is the part of a cosine
    and of a squared distance that both of them have; a cosine itself has slopes at right angles to the embedding, whose
    map would be 0 in the mean and show where an image is more alike than the rest of it.

    model: on its device; it stays as it is. image_shape: (3, height, width) of all images. Raises InputError for a
    network that has neither attention nor maps.
    """

    def __init__(self, model: Embedder, image_shape: tuple[int, int, int]) -> None:
        self.model = model
        name = model.facts["model"]
        if model.modality != "image":
            raise InputError(f"--attention shows where a network looks in images, and {name} takes {model.modality}s")
        images = torch.zeros(1, *image_shape, dtype=torch.uint8, device=model.mean.device)
        with torch.no_grad(), _evaluating(model):
            self.method = self._choose_method(images, image_shape)

    def of(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """uint8 images (B, 3, H, W) and embeddings (B, D) to be near to -> maps (B, h, w) float32, from 0,
        on the CPU."""
        device = self.model.mean.device
        images, targets = images.to(device), targets.to(device)
        with _evaluating(self.model):
            if self.method == ROLLOUT:
                maps = self._rolled_out(images)
            else:
                maps = self._by_grad_cam(images, targets)
        return maps.float().cpu()

    def _choose_method(self, images: torch.Tensor, image_shape: tuple[int, int, int]) -> str:
        name = self.model.facts["model"]
        height, width = image_shape[1:]
        row = BACKBONES[name](name)
        self.grid = None
        outputs = _OutputRecorder(self.model.backbone)
        with AttentionRecorder() as recorder, outputs:
            self.model(images)
        layers = recorder.layers(len(images))
        if layers and BACKBONES.fact(name, "output") != "maps":
            self.grid = grid_of(layers[0].shape[-1], height, width, row.prefix_tokens)
            if self.grid is not None:
                return ROLLOUT
        self.layer = self.model.backbone
        if isinstance(self.model.pooling, TokenPooling):
            shape = outputs.shapes[-1][1]
            self.grid = grid_of(shape[1], height, width, row.prefix_tokens)
            # What a class token was given came before the last layer: there no patch has a slope.
            if self.grid is not None and self.model.pooling.kind != "cls":
                return GRAD_CAM
        else:
            with_maps = [module for module, shape in outputs.shapes if len(shape) == 4 and shape[2:].numel() > 1]
            if with_maps:
                self.layer = with_maps[-1]
                return GRAD_CAM
        raise InputError(
            f"--attention cannot show where {name} looks: it has no attention that can be had, and no feature maps"
        )

    def _rolled_out(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), AttentionRecorder() as recorder:
            self.model(images)
        layers = recorder.layers(len(images))
        first, height, width = self.grid
        looks = rollout(layers)
        if looks.shape[1] > 1 and self._pools_first_token(first):
            looks = looks[:, :1]
        elif looks.shape[1] > 1:
            looks = looks[:, first:]
        return looks[:, :, first:].mean(1).unflatten(1, (height, width))

    def _pools_first_token(self, prefix_tokens: int) -> bool:
        """Whether the embedding is made of the first token, and not of all patches."""
        if isinstance(self.model.pooling, TokenPooling):
            return self.model.pooling.kind == "cls"
        if not prefix_tokens:
            return False
        # A network that pools itself: timm's and open_clip's say how.
        net = getattr(self.model.backbone, "net", self.model.backbone)
        net = getattr(net, "trunk", net)
        own = getattr(net, "global_pool", None) or getattr(net, "pool_type", None) or "token"
        return not str(own).startswith("avg")

    def _by_grad_cam(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        kept: list[torch.Tensor] = []

        def begin_here(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            """Slopes are of this layer's output; what comes next may change its copy in place."""
            kept.append(output.detach().float().requires_grad_())
            return kept[-1].to(output.dtype).clone()

        handle = self.layer.register_forward_hook(begin_here)
        try:
            with torch.inference_mode(False), torch.enable_grad():
                embeddings = self.model(images)
                score = (embeddings.float() * targets).sum()
                (slopes,) = torch.autograd.grad(score, kept[-1])
        finally:
            handle.remove()
        return grad_cam(self._as_maps(kept[-1].detach()), self._as_maps(slopes))

    def _as_maps(self, output: torch.Tensor) -> torch.Tensor:
        """What the layer gives, maps or tokens (B, N, C), as maps (B, C, h, w)."""
        if self.grid is not None:
            first, height, width = self.grid
            return output[:, first:].transpose(1, 2).unflatten(2, (height, width))
        # Inside of the backbone they are as its package has them.
        if self.layer is not self.model.backbone and getattr(self.model.backbone, "channels_last", False):
            return output.permute(0, 3, 1, 2)
        return output


def rollout(layers: list[torch.Tensor]) -> torch.Tensor:
    """Attention rollout (Abnar and Zuidema, 2020, arXiv 2005.00928): how much of each input is in each output.

    layers: (B, N, N) each, first to last, rows that sum to 1, the mean over a layer's heads. A residual connection adds
    the input itself, so that a layer is half its attention and half the identity; their product is the rollout. The
    last one may be (B, M, N), by which M queries of their own pool all tokens: beside it there is no residual.
    """
    product = torch.eye(layers[0].shape[-1], device=layers[0].device, dtype=layers[0].dtype)
    for attention in layers:
        if attention.shape[1] == attention.shape[2]:
            product = (attention @ product + product) / 2
        else:
            product = attention @ product
    return product


def grad_cam(maps: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """Grad-CAM (Selvaraju et al., 2017, arXiv 1610.02391, equations 1 and 2): maps (B, C, h, w) and the slopes of a
    score with respect to them -> (B, h, w): channels weighted by their mean slope, of which what is above 0 counts."""
    weights = slopes.mean(dim=(2, 3), keepdim=True)
    return (weights * maps).sum(1).relu()


def grid_of(tokens: int, height: int, width: int, least_prefix: int = 0) -> tuple[int, int, int] | None:
    """(tokens before the patches, rows, columns) of square patches in an image of height x width pixels; None where no
    such grid has so many. Of several the one with the fewest tokens before it, which are `least_prefix` or more."""
    for prefix in range(least_prefix, MOST_PREFIX_TOKENS + 1):
        patches = tokens - prefix
        if patches < 2:
            break
        rows = max(1, round((patches * height / width) ** 0.5))
        columns = patches // rows
        if rows * columns == patches and height // rows == width // columns:
            return prefix, rows, columns
    return None


class AttentionRecorder(TorchFunctionMode):
    """A context in which what attention layers look at is kept, the mean over their heads (B, N, N).

    Layers compute it by torch's two functions, which give no weights, since they never have all of them in memory. So
    they are computed again, or asked for where the function has a switch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[torch.Tensor] = []

    def __torch_function__(self, function: Any, types: Any, given: tuple = (), keywords: dict | None = None) -> Any:
        keywords = keywords or {}
        if function is F.multi_head_attention_forward:
            asked = {**keywords, "need_weights": True, "average_attn_weights": False}
            output, weights = function(*given, **asked)
            self._keep(weights)
            return output, weights.mean(-3)
        if function is F.scaled_dot_product_attention:
            self._keep(attention_weights(*given, **keywords))
        return function(*given, **keywords)

    def _keep(self, weights: torch.Tensor) -> None:
        # Of other ranks are blocks that put windows or channels where others have images.
        if weights.ndim == 4:
            self.weights.append(weights.detach().mean(1))

    def layers(self, batch: int) -> list[torch.Tensor]:
        """The layers (B, N, N), and the (B, M, N) by which they are pooled; none where they do not follow each other,
        as those that look at windows do not."""
        kept = self.weights
        if not kept:
            return []
        count = kept[0].shape[-1]
        whole = [len(weights) == batch and weights.shape[-1] == count for weights in kept]
        square = [weights.shape[-2] == count for weights in kept]
        if all(whole) and all(square[:-1]) and square[0]:
            return kept
        return []


def attention_weights(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """What torch's scaled_dot_product_attention multiplies `value` by, (B, heads, N, N), of its own arguments."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    if scale is None:
        scale = query.shape[-1] ** -0.5
    exact = torch.promote_types(query.dtype, torch.float32)
    scores = scale * query.to(exact) @ key.to(exact).transpose(-2, -1)
    if is_causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1)


class _OutputRecorder:
    """A context that keeps, in the order in which they end, a network's modules with the shapes of their outputs."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.shapes: list[tuple[nn.Module, torch.Size]] = []

    def __enter__(self) -> Self:
        self.handles = [module.register_forward_hook(self._keep) for module in self.net.modules()]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if torch.is_tensor(output):
            self.shapes.append((module, output.shape))


@contextmanager
def _evaluating(model: Embedder) -> Iterator[None]:
    """The network in evaluation mode meanwhile, looking at images as they are."""
    was_training = model.training
    model.eval()
    try:
        with model.at_scales(1.0):
            yield
    finally:
        model.train(was_training)
