"""Sound networks of HuggingFace's transformers, which is an extra package: a folder of one, or a name that is in the
cache of its hub or can be downloaded. Code that comes with a network is never executed."""

import functools
import json
from typing import Any

import numpy as np
import torch
from torch import nn

from core.errors import InputError
from models.backbones._row import PUBLISHED, AudioInput, Backbone, Wrapped
from models.backbones._stages import depths_by_blocks, stages_by_depth
from models.backbones._transformers import asked
from models.backbones.hf_text import configuration, encoder_alone, width_of
from models.log_mel import clip_lengths, silent_padding

# What networks of transformers call waves, and what their feature extractors make of waves.
WAVES, FEATURES = "input_values", "input_features"
AST = "audio-spectrogram-transformer"
AST_FRAMES = 100  # a second
LEAST_SECONDS = 0.05  # that a feature extractor makes something of
CLASS_TOKENS = 2  # of AST: one of classes, one of a teacher


def takes_sounds(net: nn.Module) -> bool:
    """Whether a network of transformers takes waves, or what a feature extractor makes of them."""
    return getattr(net, "main_input_name", None) in (WAVES, FEATURES)


@functools.cache
def audio_backbone(source: str) -> Backbone:
    """The row of a sound network: a folder that transformers wrote, or a name of its hub.

    wav2vec 2.0, HuBERT, WavLM and their kin take waves; AST, Whisper's encoder and others what their feature extractor
    makes of them. Raises InputError for what is not such a network with its feature extractor.
    """
    config = configuration(source)
    width = width_of(config)
    if width is None:
        raise InputError(f"{source!r} is no network for sounds: its configuration tells of no width")
    extractor = _extractor(source)
    facts = {"extractor": json.loads(extractor.to_json_string())}
    takes_waves = getattr(extractor, "feature_size", 1) == 1 and not hasattr(extractor, "num_mel_bins")
    tokens = 0
    with torch.device("meta"):
        net = _build(source)
    if takes_waves:
        build = functools.partial(build_wave_network, source)
        # Groups of channels are normalised over all of the input, silence behind a clip's end among it.
        fills = getattr(config, "feat_extract_norm", None) == "group"
        front = functools.partial(WaveFront, bool(extractor.do_normalize))
        sound = AudioInput(extractor.sampling_rate, 3.0, front, fills, facts)
    else:
        front = functools.partial(ExtractorFront, source)
        sound = AudioInput(extractor.sampling_rate, _seconds(extractor), front, False, facts)
        shape = front()(torch.zeros(1, extractor.sampling_rate)).shape
        tokens = net(torch.zeros(shape, device="meta")).last_hidden_state.shape[1]
        build = functools.partial(build_feature_network, source, tokens)
    return Backbone(
        build,
        width,
        stages_by_depth(net, depths_by_blocks(net), Wrapped.inner),
        sound,
        modality="audio",
        output="tokens",
        weights=(PUBLISHED,),
        prefix_tokens=CLASS_TOKENS if config.model_type == AST else 0,
    )


def build_wave_network(source: str, weights: str | None) -> nn.Module:
    """A network that takes waves, with the weights that come with it, or with random ones."""
    return HfWaves(_built(source, weights))


def build_feature_network(source: str, tokens: int, weights: str | None) -> nn.Module:
    """A network that takes what its feature extractor makes. tokens: what it gives of any clip."""
    return HfSpectra(_built(source, weights), tokens)


class WaveFront(nn.Module):
    """Waves (B, N), NaN behind a clip's end, as its network was trained on them.

    normalises: each clip is brought to mean 0 and variance 1, as Wav2Vec2FeatureExtractor does it.
    """

    def __init__(self, normalises: bool) -> None:
        super().__init__()
        self.normalises = normalises

    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        waves = waves.float()
        if not self.normalises:
            return waves
        lengths = clip_lengths(waves)[:, None]
        means = silent_padding(waves).sum(1, keepdim=True) / lengths
        variances = silent_padding(waves - means).square().sum(1, keepdim=True) / lengths
        return (waves - means) / (variances + 1e-7).sqrt()


class HfWaves(Wrapped):
    """Waves (B, N), NaN behind a clip's end, to tokens (B, T, width) of the last layer."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        # Such networks were trained without being told of padding.
        self.is_told = getattr(net.config, "feat_extract_norm", None) != "group"
        self.least = _least_samples(net.config)

    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        lengths = self._lengths(waves)
        waves = nn.functional.pad(silent_padding(waves), (0, max(0, self.least - waves.shape[1])))
        mask = None
        if self.is_told:
            mask = (torch.arange(waves.shape[1], device=waves.device) < lengths[:, None]).long()
        return self.net(waves, attention_mask=mask).last_hidden_state

    def is_token(self, waves: torch.Tensor) -> torch.Tensor:
        """(B, T) bool: which tokens are of the clip, and not of padding."""
        whole = torch.tensor(max(self.least, waves.shape[1]))
        tokens = int(self.net._get_feat_extract_output_lengths(whole))
        lengths = self.net._get_feat_extract_output_lengths(self._lengths(waves))
        return torch.arange(tokens, device=waves.device) < lengths[:, None]

    def _lengths(self, waves: torch.Tensor) -> torch.Tensor:
        """Samples of each clip, (B,); of one that is too short for a token as many as that takes."""
        return clip_lengths(waves).clamp(min=self.least)


class ExtractorFront(nn.Module):
    """Waves (B, N), NaN behind a clip's end, to what the feature extractor of a network makes of them, on the CPU."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.extractor = _extractor(source)
        self.least = int(LEAST_SECONDS * self.extractor.sampling_rate)

    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        waves = nn.functional.pad(waves, (0, max(0, self.least - waves.shape[1])), value=torch.nan)
        # Of less it would make no frame.
        lengths = clip_lengths(waves).clamp(min=self.least).tolist()
        silenced = silent_padding(waves.detach().float()).cpu()
        clips = [wave[:length].numpy() for wave, length in zip(silenced, lengths)]
        made = self.extractor(clips, sampling_rate=self.extractor.sampling_rate, return_tensors="np")
        features = made[WAVES] if WAVES in made else made[FEATURES]
        return torch.from_numpy(np.asarray(features, np.float32)).to(waves.device)


class HfSpectra(Wrapped):
    """What a feature extractor makes, all of one length, to tokens (B, T, width) of the last layer."""

    def __init__(self, net: nn.Module, tokens: int) -> None:
        super().__init__(net)
        self.tokens = tokens

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.net(features).last_hidden_state

    def is_token(self, features: torch.Tensor) -> torch.Tensor:
        """(B, T) bool: the network was trained to take silence behind a clip's end for a part of it."""
        return torch.ones(len(features), self.tokens, dtype=torch.bool, device=features.device)


def _extractor(source: str) -> Any:
    from transformers import AutoFeatureExtractor

    return asked(source, AutoFeatureExtractor.from_pretrained, "feature extractor")


def _seconds(extractor: Any) -> float:
    """How long the clips are that a feature extractor makes something of."""
    if hasattr(extractor, "chunk_length"):
        return float(extractor.chunk_length)
    if hasattr(extractor, "num_mel_bins"):
        return extractor.max_length / AST_FRAMES
    return 3.0


def _least_samples(config: Any) -> int:
    """How many samples a network needs for one token."""
    samples = 1
    for kernel, stride in reversed(list(zip(config.conv_kernel, config.conv_stride))):
        samples = (samples - 1) * stride + kernel
    return samples


def _built(source: str, weights: str | None) -> nn.Module:
    if weights is None:
        return _build(source)
    from transformers import AutoModel

    return _without_own_draws(encoder_alone(asked(source, AutoModel.from_pretrained, "network")))


def _build(source: str) -> nn.Module:
    """A network with random weights."""
    from transformers import AutoModel

    return _without_own_draws(encoder_alone(AutoModel.from_config(configuration(source), trust_remote_code=False)))


def _without_own_draws(net: nn.Module) -> nn.Module:
    """A network that masks nothing of its own accord: --augment_sounds does, by the run's seed, on waves."""
    for name in ("apply_spec_augment", "layerdrop", "encoder_layerdrop"):
        if hasattr(net.config, name):
            setattr(net.config, name, type(getattr(net.config, name))(0))
    return net
