"""A backbone that is left as it is for the first steps, while what is new behind it learns."""

from torch import nn

from core.errors import InputError
from core.types import Count
from models import Embedder


class FirstSteps:
    """Holds the backbone of `model` for so many steps; a run that goes on behind them finds it released."""

    def __init__(self, model: Embedder, steps: int):
        self.model = model
        self.steps = steps

    def before(self, step: int) -> None:
        """Told of each step, from 1, before it is made."""
        if step <= self.steps:
            self.model.hold_backbone()
        else:
            self.model.release_backbone()


def build_first_steps(model: Embedder, loss: nn.Module, *, freeze_steps: Count = 0) -> FirstSteps | None:
    """What holds the backbone at first; None where it learns from the first step on.

    Options:
        freeze_steps: steps in which the head and the loss's weights learn alone, in front of those of all

    Linear probing, then fine-tuning: Kumar et al., 2022, arXiv 2202.10054. Raises InputError where nothing would learn.
    """
    if not freeze_steps:
        return None
    # Of two networks each has one.
    behind = [weight for name, weight in model.named_parameters() if "backbone" not in name.split(".")[:3]]
    if not any(weight.requires_grad for weight in (*behind, *loss.parameters())):
        raise InputError(
            f"--freeze_steps={freeze_steps} leaves nothing to learn: there is neither a head (--embedding_size, "
            "--head) nor a loss with weights"
        )
    return FirstSteps(model, freeze_steps)
