"""A pair scorer around a network: built to be trained, or opened as a run of train_reranker.py saved it."""

import copy
from dataclasses import replace
from typing import Annotated

import torch

from core.errors import InputError, first_line
from core.pairs import InputPairs
from core.types import OneOf
from models.batchnorm import statistics_left_alone
from models.build import ModelSettings, example_input
from models.embedder import ARGUMENTS, Embedder
from models.fast import folded
from models.low_rank import merged
from models.pair_scorer._scorer import PAIR_SCORERS, PairScorer
from models.trained import trained_settings
from models.weights import PAIR_SCORER, read_weights, weights_file

OPTIONS = "pair_scorer_options"  # beside PAIR_SCORER in the facts of a checkpoint


def build_pair_scorer(
    embedder: Embedder,
    settings: ModelSettings,
    options: dict[str, object],
    *,
    scorer: Annotated[str, OneOf("models/pair_scorer")] = "concat_siamese",
) -> PairScorer:
    """The pair scorer of that name around a network, both on the CPU; new layers are drawn from torch's generator.

    Options:
        scorer: one of {models/pair_scorer}; its own flags: --scorer=NAME --help

    options: those of the scorer's own keywords, {name: value}. Raises InputError for what the network cannot compare.
    """
    built = PAIR_SCORERS[scorer](embedder, **options)
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    built.facts = {**built.facts, PAIR_SCORER: scorer, OPTIONS: plain}
    _check_forward(built, settings)
    return built


def open_pair_scorer(source: str) -> tuple[PairScorer, ModelSettings]:
    """The pair scorer of a run of train_reranker.py, on the CPU in evaluation mode, and how its images come to it.

    source: the run's folder, or one of its .pt files. Raises InputError for anything else.
    """
    file = weights_file(source, "pairwise_model")
    state = read_weights(file)
    facts = state.get("facts")
    if not isinstance(facts, dict) or PAIR_SCORER not in facts or not isinstance(state.get("model"), dict):
        raise InputError(
            f"--pairwise_model={source}: {str(file)!r} holds no pair scorer; python train_reranker.py "
            "--pretrained_model=RUN trains one"
        )
    settings = replace(ModelSettings(**trained_settings(source)), pretrained_model=None)
    # A stranger's file may hold anything under these names.
    try:
        embedder = Embedder(**{name: facts[name] for name in ARGUMENTS if name in facts})
        scorer = PAIR_SCORERS[facts[PAIR_SCORER]](embedder, **facts[OPTIONS])
        scorer.load_state_dict(state["model"])
    except (RuntimeError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{str(file)!r} is no whole pair scorer: {str(error).splitlines()[-1].strip()}") from None
    scorer.facts = facts
    return scorer.eval(), settings


def fast_scorer(scorer: PairScorer) -> PairScorer:
    """A copy in evaluation mode that scores as the scorer does, up to rounding: its BatchNorms are folded."""
    fast = copy.deepcopy(scorer).eval()
    fast.embedder.backbone = folded(merged(fast.embedder.backbone))
    return fast.to(memory_format=torch.channels_last)


def _check_forward(scorer: PairScorer, settings: ModelSettings) -> None:
    """Raise InputError unless a scorer takes a pair of inputs of the settings' size; leaves it and all draws as is."""
    nothing = torch.zeros(1, dtype=torch.int64)
    mode_before = scorer.training
    scorer.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), statistics_left_alone(scorer):
            scorer(InputPairs(example_input(settings, 1), nothing, nothing))
    except (RuntimeError, ValueError, AssertionError) as error:
        model, name = scorer.facts["model"], scorer.facts[PAIR_SCORER]
        raise InputError(f"{model} cannot compare two {settings.modality}s by {name}: {first_line(error)}") from None
    finally:
        scorer.train(mode_before)
