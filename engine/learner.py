"""What learns, as one value: network and loss, the optimiser of their weights, and how a step is computed."""

from dataclasses import dataclass

import torch

import distributed
from core.errors import InputError
from engine.averaging import Averaging
from engine.freezing import FirstSteps
from engine.objective import Objective
from models import Embedder, ModelSettings, check_forward


@dataclass
class Learner:
    """An objective on `device`, the optimiser of its weights, and what a step does with them.

    precision: fp32, bf16 or fp16, in which the network runs. micro_batch: images whose activations are held at a time,
    0 for all of a batch. clip_norm: largest norm of the gradient, 0 for no clipping. averaging: what is handed on in
    place of the weights that a step made, None for these. first_steps: what leaves the backbone as it is at first, if
    anything does.
    """

    objective: Objective
    optimiser: torch.optim.Optimizer
    device: torch.device
    precision: str = "fp32"
    micro_batch: int = 0
    clip_norm: float = 0.0
    averaging: Averaging | None = None
    first_steps: FirstSteps | None = None

    def __post_init__(self):
        # Gradients of fp16 would vanish unless the loss is scaled up; elsewhere the scaler does nothing.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        if self.needs_closure and self.scaler.is_enabled():
            raise InputError("lbfgs looks at the loss several times a step, which fp16 cannot; take --precision=bf16")
        if self.needs_closure and distributed.world_size() > 1:
            raise InputError("lbfgs is for one process; run it without torchrun")

    @property
    def needs_closure(self) -> bool:
        """Whether the optimiser asks for loss and gradient itself."""
        return isinstance(self.optimiser, torch.optim.LBFGS)

    def network(self, is_last: bool) -> Embedder:
        """The network that is tested and exported; is_last: behind the run's last step."""
        if self.averaging is None:
            return self.objective.model
        return self.averaging.network(is_last)


def check_batches(model: Embedder, settings: ModelSettings, train_batch_size: int, micro_batch: int) -> None:
    """Raise InputError where `model`, on the CPU, cannot train on batches, or micro-batches, of so many images."""
    if micro_batch > train_batch_size:
        raise InputError(
            f"micro_batch is {micro_batch}, more than train_batch_size, {train_batch_size}; 0 is all of it"
        )
    # BatchNorm cannot train on one image alone, unless maps are large.
    at_a_time = micro_batch or train_batch_size
    if at_a_time == 1 or train_batch_size % at_a_time == 1:
        check_forward(model, settings, images=1, training=True)
