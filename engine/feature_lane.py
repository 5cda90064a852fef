"""Training on features in place of images: a network of which the last layer alone runs, its batches, its test."""

from collections.abc import Container

import distributed
from core.errors import InputError
from data.samplers import BatchSampler, InOrder, NeighbourSampler, RankBatches
from embeddings.features import FeatureBatches, FeatureData
from embeddings.fingerprint import fingerprint
from engine.assembly import Start, build_first_model
from engine.seeding import seed_everything
from engine.towers import build_tower_network
from models import (
    Embedder,
    ModelSettings,
    TowerSettings,
    TwoTowers,
    add_last_layer,
    build_model,
    open_model,
)

TESTED_ROWS = 4096  # at a time: a layer alone takes little memory


def build_feature_model(
    start: Start, data: FeatureData, settings: ModelSettings, typed: Container[str]
) -> tuple[Embedder, ModelSettings]:
    """The network that made the features with a new last layer behind it, which alone runs and learns; its settings.

    What is drawn follows from the run's seed. A run that goes on takes all weights from its checkpoint. typed: flags
    that the user gave. Raises InputError where --pretrained_model is not the network that made them.
    """
    if start.settings.report:
        raise InputError("--report shows images, and --features train without any; leave it out")
    if start.run.checkpoint:
        model = build_model(settings, None)
    else:
        model = _with_new_layer(start, data, settings, typed)
    model.take_features()
    return model, settings.of_network(model)


def _with_new_layer(start: Start, data: FeatureData, settings: ModelSettings, typed: Container[str]) -> Embedder:
    settings = data.settings(settings, typed)
    if not settings.pretrained_model:
        raise InputError(
            f"{data.train.source!r} was made by a {settings.model}; give it as --pretrained_model, for the head to "
            "stand behind it"
        )
    source = settings.of_source()
    model = open_model(source)
    data.refuse_other_model(fingerprint(model, source), settings.pretrained_model)
    seed_everything(start.settings.seed)
    add_last_layer(model, settings)
    return model


def build_network(
    start: Start,
    features: FeatureData | None,
    settings: ModelSettings | TowerSettings,
    typed: Container[str],
    lists: dict[str, dict],
    train_batch_size: int,
    adds_layer: bool,
    **build: bool | int,
) -> tuple[Embedder | TwoTowers, ModelSettings | TowerSettings]:
    """The network to train, by features where there are any, else by images, or by pairs of these with texts, and its
    settings.

    adds_layer: whether there is one more layer behind the one of --pretrained_model. lists, train_batch_size, build: as
    `build_first_model` has them. Raises InputError as that and `build_feature_model` do.
    """
    if isinstance(settings, TowerSettings):
        return build_tower_network(start, settings, lists, train_batch_size, **build), settings
    if features is not None:
        return build_feature_model(start, features, settings, typed)
    model = build_first_model(start, settings, lists, train_batch_size, adds_layer, **build)
    return model, settings.of_network(model)


def open_feature_loader(data: FeatureData, sampler: BatchSampler) -> FeatureBatches:
    """Endless batches of the train features, of which this rank has its part.

    Raises InputError for a sampler that has to embed images.
    """
    if isinstance(sampler, NeighbourSampler):
        raise InputError("--sampler=neighbours embeds train images, and --features train without any; take another")
    batches = RankBatches(sampler, distributed.rank(), distributed.world_size())
    return FeatureBatches(data.features, data.train, batches)


def open_feature_test_loader(data: FeatureData) -> FeatureBatches:
    """The features that a run is tested on, in order; several ranks have the batches in turn."""
    batches = InOrder(len(data.test), TESTED_ROWS, distributed.rank(), distributed.world_size())
    return FeatureBatches(data.test_features, data.test, batches)
