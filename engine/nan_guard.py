"""Losses and gradients that are not finite: noticed, named, and kept out of the weights."""

import math
import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

import distributed
from core.errors import InputError
from core.text import counted


class FiniteGuard:
    """Looks at each step's loss and gradient norm before the weights move.

    skips: how many steps in a run may be left out, 0 to stop at the first; `skipped` counts them. scaled: the
    gradient comes from fp16, where GradScaler looks for infinities and leaves such steps out itself.
    On the CPU a step is judged at once. Elsewhere reading it back would stall the device, so without `skips` the
    device notes the first bad step, which `check` reads: call it before anything is shown, tested or saved.
    """

    def __init__(
        self, objective: nn.Module, device: torch.device, skips: int = 0, skipped: int = 0, scaled: bool = False
    ):
        self.objective = objective
        self.skips = skips
        self.skipped = skipped
        self.scaled = scaled
        self.judges_at_once = device.type == "cpu" or skips > 0
        self.buffers: list[torch.Tensor] = []
        self.unread: list[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self.first_bad: torch.Tensor | None = None  # on the device: the index of the first bad one of `unread`, or -1

    def begin(self) -> None:
        """Before the forward pass, which a bad step would leave in BatchNorm's running statistics."""
        if self.skips:
            self.buffers = [buffer.clone() for buffer in self.objective.buffers()]

    def may_update(self, step: int, loss: torch.Tensor, norm: torch.Tensor, indices: torch.Tensor) -> bool:
        """Whether the weights may take this step. loss, norm: scalar tensors; indices (B,): the batch's images.

        Raises NotFinite for a step that may not be left out.
        """
        if not self.judges_at_once:
            self._note(step, loss, norm, indices)
            return True
        is_finite = math.isfinite(loss.item()) and (self.scaled or math.isfinite(norm.item()))
        if is_finite:
            return True
        if self.skipped >= self.skips:
            raise NotFinite(step, loss.item(), norm.item(), indices, self.skipped)
        self.skipped += 1
        for buffer, before in zip(self.objective.buffers(), self.buffers):
            buffer.copy_(before)
        return False

    def _note(self, step: int, loss: torch.Tensor, norm: torch.Tensor, indices: torch.Tensor) -> None:
        """Let the device find out whether this step is bad; nothing is read from it."""
        is_bad = ~torch.isfinite(loss)
        if not self.scaled:
            is_bad |= ~torch.isfinite(norm)
        if self.first_bad is None:
            self.first_bad = torch.full_like(loss, -1, dtype=torch.int64)
        this_one = torch.full_like(self.first_bad, len(self.unread))
        self.first_bad = torch.where(is_bad & (self.first_bad < 0), this_one, self.first_bad)
        self.unread.append((step, loss, norm, indices))

    def check(self) -> None:
        """Raise NotFinite for the first bad step since the last call."""
        if not self.unread:
            return
        index = self.first_bad.item()
        unread = self.unread
        self.first_bad = None
        self.unread = []
        if index >= 0:
            step, loss, norm, indices = unread[index]
            raise NotFinite(step, loss.item(), norm.item(), indices, self.skipped)


class NotFinite(InputError):
    """A step that ends the run: `step`, the `indices` (B,) of its batch's images."""

    def __init__(self, step: int, loss: float, norm: float, indices: torch.Tensor, skipped: int):
        after = ""
        if skipped:
            after = f" after {counted(skipped, 'step')} left out"
        super().__init__(f"the loss is {loss} and the gradient's norm {norm} at step {step}{after}")
        self.step = step
        self.indices = indices.tolist()

    def with_images(self, paths: np.ndarray, folder: Path) -> InputError:
        """An InputError that names the images of all ranks, out of paths (N,), and lists them in a file in `folder`."""
        indices = distributed.all_gather(torch.tensor(self.indices)).tolist()
        batch = [str(paths[index]) for index in indices]
        file = Path(folder, f"not_finite_{self.step}.txt")
        if distributed.is_first():
            # As the file system has them: a path may be no UTF-8.
            file.write_bytes(b"".join(os.fsencode(f"{path}\n") for path in batch))
        first_three = ", ".join(repr(path) for path in batch[:3])
        return InputError(
            f"{self}; try a smaller --lr, or --nan=skip:10. Its batch of {counted(len(batch), 'image')} is in {file}, "
            f"first {first_three}"
        )


def allowed_skips(policy: str) -> int:
    """How many steps --nan lets a run leave out: none for `stop`, N for `skip:N`."""
    if policy == "stop":
        return 0
    return int(policy.removeprefix("skip:"))
