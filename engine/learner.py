"""What learns, as one value: network and loss, the optimiser of their weights, and how a step is computed."""

from dataclasses import dataclass

import torch

from engine.objective import Objective


@dataclass
class Learner:
    """An objective on `device`, the optimiser of its weights, and what a step does with them.

    precision: fp32, bf16 or fp16, in which the network runs. micro_batch: images whose activations are held at a time,
    0 for all of a batch. clip_norm: largest norm of the gradient, 0 for no clipping.
    """

    objective: Objective
    optimiser: torch.optim.Optimizer
    device: torch.device
    precision: str = "fp32"
    micro_batch: int = 0
    clip_norm: float = 0.0

    def __post_init__(self):
        # Gradients of fp16 would vanish unless the loss is scaled up; elsewhere the scaler does nothing.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
