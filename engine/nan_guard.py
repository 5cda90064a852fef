"""Losses and gradients that are not finite: found, named, and left out of the weights."""

import math
import os
from pathlib import Path

import torch

import distributed
from core.errors import InputError


class FiniteGuard:
    """Looks at each step's loss and gradient norm before the weights move.

    skips: how many steps in a run may be left out, 0 to stop at the first; `skipped` counts them. scaled: the
    gradient comes from fp16, where GradScaler looks for infinities and leaves such steps out itself.
    On the CPU a step is judged at once. Elsewhere reading it back would stall the device, so without `skips` the
    device notes the first bad step, which `check` reads: call it before anything is shown, tested or saved.
    """

    def __init__(self, objective, device, skips=0, skipped=0, scaled=False):
        self.objective, self.skips, self.skipped, self.scaled = objective, skips, skipped, scaled
        self.at_once = device.type == "cpu" or skips > 0
        self.buffers, self.waiting = [], []
        self.first_bad = None  # a scalar on the device: the index of the first bad one of `waiting`, or -1

    def begin(self):
        """Before the forward pass, which a bad step would leave in BatchNorm's running statistics."""
        if self.skips:
            self.buffers = [buffer.clone() for buffer in self.objective.buffers()]

    def may_update(self, step, loss, norm, indices):
        """Whether the weights may take this step. loss, norm: scalar tensors; indices (B,): the batch's images.

        Raises NotFinite for a step that may not be left out.
        """
        if self.at_once:
            values = (loss.item(), 0.0 if self.scaled else norm.item())
            if all(map(math.isfinite, values)):
                return True
            if self.skipped >= self.skips:
                raise NotFinite(step, loss.item(), norm.item(), indices, self.skipped)
            self.skipped += 1
            for buffer, before in zip(self.objective.buffers(), self.buffers):
                buffer.copy_(before)
            return False
        is_bad = ~torch.isfinite(loss)
        if not self.scaled:
            is_bad |= ~torch.isfinite(norm)
        if self.first_bad is None:
            self.first_bad = torch.full_like(loss, -1, dtype=torch.int64)
        place = torch.full_like(self.first_bad, len(self.waiting))
        self.first_bad = torch.where(is_bad & (self.first_bad < 0), place, self.first_bad)
        self.waiting.append((step, loss, norm, indices))
        return True

    def check(self):
        """Raise NotFinite for the first bad step since the last call."""
        if self.waiting:
            place, waiting = self.first_bad.item(), self.waiting
            self.first_bad, self.waiting = None, []
            if place >= 0:
                step, loss, norm, indices = waiting[place]
                raise NotFinite(step, loss.item(), norm.item(), indices, self.skipped)


class NotFinite(InputError):
    """A step that ends the run: `step`, the `indices` (B,) of its batch's images."""

    def __init__(self, step, loss, norm, indices, skipped):
        after = f" after {skipped} steps left out" if skipped else ""
        super().__init__(f"the loss is {loss} and the gradient's norm {norm} at step {step}{after}")
        self.step, self.indices = step, indices.tolist()

    def with_images(self, paths, folder):
        """An InputError that names the images of all ranks, out of paths (N,), and lists them in a file in `folder`."""
        batch = [str(paths[index]) for index in distributed.all_gather(torch.tensor(self.indices)).tolist()]
        file = Path(folder, f"not_finite_{self.step}.txt")
        if distributed.is_first():
            file.write_bytes(b"".join(os.fsencode(f"{path}\n") for path in batch))
        return InputError(
            f"{self}; try a smaller --lr, or --nan=skip:10. Its batch of {len(batch)} images is in {file}, first "
            f"{', '.join(map(repr, batch[:3]))}"
        )
