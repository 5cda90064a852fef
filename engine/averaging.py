"""What a run hands on where that is not what its last step made: averages of weights.

An average over steps: Polyak and Juditsky, 1992; with this warm-up as TensorFlow's ExponentialMovingAverage has it.
Between first and last: Wortsman et al., 2022, Robust fine-tuning of zero-shot models (WiSE-FT), arXiv 2109.01903.
"""

import copy

import torch

from core.console import log
from core.errors import InputError
from core.types import Share, ShareOfSome
from engine.objective import Objective
from models import Embedder

State = dict[str, torch.Tensor]


class Averaging:
    """The weights and buffers that are tested, saved as the model's and the loss's, and exported, of an `objective`.

    ema: decay d of a moving average, 0 for none. After step t (from 0) the average is d' of itself and 1 - d' of what
    the step made, where d' = min(d, (1 + t) / (10 + t)). BatchNorm's statistics are averaged with the weights, and so
    are those of the loss; what is counted in integers is the step's. interpolate: behind the last step the network is
    so much of that, the rest of what it was at first; 1 for all.
    """

    def __init__(self, objective: Objective, ema: float = 0.0, interpolate: float = 1.0):
        self.objective = objective
        self.ema = ema
        self.interpolate = interpolate
        self.average: State | None = None
        self.first: State | None = None
        self.updates = 0
        if ema:
            self.average = _copied(objective.state_dict())
        if interpolate < 1:
            self.first = _copied(objective.model.state_dict())

    @torch.no_grad()
    def update(self) -> None:
        """Take a step's weights into the average."""
        if self.average is None:
            return
        decay = min(self.ema, (1 + self.updates) / (10 + self.updates))
        for name, value in self.objective.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)
        self.updates += 1

    def network(self, is_last: bool) -> Embedder:
        """A copy of the network with what is handed on; is_last: behind the run's last step."""
        network = copy.deepcopy(self.objective.model)
        network.load_state_dict(self._handed_on(is_last)["model"])
        return network

    def _handed_on(self, is_last: bool) -> dict[str, State]:
        """{"model": ..., "loss": ...}."""
        weights = self.objective.state_dict()
        if self.average is not None:
            weights = self.average
        model = _part(weights, "model.")
        if is_last and self.first is not None:
            model = {name: self._interpolated(self.first[name], value) for name, value in model.items()}
        return {"model": model, "loss": _part(weights, "loss.")}

    def _interpolated(self, first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        if not last.is_floating_point():
            return last
        return torch.lerp(first, last, self.interpolate)

    def into_state(self, state: dict[str, object], is_last: bool) -> dict[str, object]:
        """A training_state that holds what is handed on, beside it what the next step goes on from."""
        goes_on = {"model": state["model"], "loss": state["loss"], "updates": self.updates}
        goes_on |= {"average": self.average, "first": self.first}
        return {**state, **self._handed_on(is_last), "averaging": goes_on}

    def restore(self, state: dict[str, object] | None) -> None:
        """Put back what `into_state` saved as "averaging"; the objective has its weights again already.

        state: None where the run has averaged nothing so far: an average begins now then. Raises ValueError where the
        first weights are not known any more.
        """
        state = state or {}
        if self.first is not None:
            if state.get("first") is None:
                raise ValueError("the weights that it began with, for --interpolate, are not in it")
            self.first = _put_back(state["first"], self.first)
        if self.average is not None:
            # Without one of before, it begins at the weights that are there now.
            self.average = _put_back(state.get("average") or self.objective.state_dict(), self.average)
            self.updates = int(state.get("updates", 0))


def _copied(state: State) -> State:
    return {name: value.detach().clone() for name, value in state.items()}


def _part(state: State, prefix: str) -> State:
    """The entries of a state dict whose names begin so, under the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _put_back(saved: State, held: State) -> State:
    """Copies of the saved tensors, where those that are held stand."""
    return {name: saved[name].detach().to(value.device, copy=True) for name, value in held.items()}


def build_averaging(
    objective: Objective, first_weights: str | None, *, ema: ShareOfSome = 0.0, interpolate: Share = 1.0
) -> Averaging | None:
    """What is to be handed on in place of the last step's weights; None where it is just these.

    Options:
        ema: decay of a moving average of the weights, below 1, which is tested, saved and exported, as 0.99; 0: none
        interpolate: share of the trained weights in the final network, the rest is as it began (WiSE-FT); 1: all

    first_weights: --pretrained_model. Raises InputError where the network begins with none, and for class weights of
    which each rank has a part.
    """
    if not ema and interpolate == 1:
        return None
    if interpolate < 1 and not first_weights:
        raise InputError(f"interpolate is {interpolate}, but without --pretrained_model the first weights are chance")
    if objective.loss_is_sharded:
        raise InputError("--ema and --interpolate do not go with --shard_classes")
    if interpolate < 1:
        log(f"the final network will be {interpolate:g} of what is trained, the rest of {first_weights}")
    return Averaging(objective, ema, interpolate)
