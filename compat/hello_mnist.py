"""The hello world of metric learning under the names of its story: a contrastive loss, a network, pairs of digits.

from compat.hello_mnist import ContrastiveLoss, ConvBackbone, SiameseMNIST, SiameseNetwork

docs/hello_mnist.md tells the same with the scripts.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from core.errors import InputError
from core.text import counted
from data.samplers import SiamesePairsSampler
from data.vocabulary import Vocabulary
from losses import LOSSES
from models.backbones.conv import ConvBackbone

__all__ = ["ContrastiveLoss", "ConvBackbone", "SiameseMNIST", "SiameseNetwork"]

VALIDATION_SEED = 42


class ContrastiveLoss(nn.Module):
    """Mean over pairs of d² for target 1, of max(0, margin - d² + eps)² for target 0; d: Euclidean, raw embeddings."""

    def __init__(self, margin: float, *, eps: float = 1e-9) -> None:
        super().__init__()
        self.loss = LOSSES["contrastive"](margin, eps)

    def forward(self, embedding1: torch.Tensor, embedding2: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Embeddings (P, D) and (P, D), target (P,) to a scalar."""
        return self.loss.of_pairs(embedding1, embedding2, target)


class SiameseMNIST(Dataset):
    """Pairs of a labelled data set: item i is ((image i, its partner), (1 for one label else 0, label of i)).

    mnist_dataset: has `data` (N, ...) uint8, `targets` (N,), `train` and `transform`, as torchvision's MNIST has. With
    a chance of one half the partner is another image of the label, never the image itself, else one of another label.
    In training a pair is drawn each time by torch's generator; for validation all are drawn once, the same always.
    Raises InputError for a data set of one label, or of no label with two images.
    """

    def __init__(self, mnist_dataset: Any) -> None:
        self.mnist_dataset = mnist_dataset
        self.train = mnist_dataset.train
        self.transform = mnist_dataset.transform
        self.data = mnist_dataset.data
        self.labels = torch.as_tensor(mnist_dataset.targets)
        self.pairs = SiamesePairsSampler(Vocabulary.of(self.labels.numpy()), batch_size=2)
        self.partners: np.ndarray | None = None
        if not self.train:
            rng = np.random.default_rng(VALIDATION_SEED)
            self.partners = self.pairs.partners(np.arange(len(self)), rng)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[tuple[Any, Any], tuple[int, torch.Tensor]]:
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of a data set of {len(self)}")
        if self.partners is None:
            # Of torch's generator, which each worker of a loader has its own of.
            rng = np.random.default_rng(int(torch.randint(2**62, ())))
            partner = int(self.pairs.partners(np.array([index]), rng)[0])
        else:
            partner = int(self.partners[index])
        target = int(self.labels[index] == self.labels[partner])
        return (self._image(index), self._image(partner)), (target, self.labels[index])

    def _image(self, index: int) -> Any:
        image = Image.fromarray(np.asarray(self.data[index]))
        if self.transform is None:
            return image
        return self.transform(image)


class SiameseNetwork(nn.Module):
    """A network that both images of a pair go through, with the story's training step.

    `training_step(batch, batch_idx)` has Lightning's form; a plain loop calls it, too, and goes down `["loss"]`.
    """

    def __init__(self, backbone: nn.Module | None = None, loss_func: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone or ConvBackbone()
        self.loss_func = loss_func or ContrastiveLoss(margin=1.0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images to embeddings."""
        return self.backbone(images)

    def training_step(self, batch: tuple, batch_idx: int) -> dict[str, Any]:
        """{"loss", "log": {"train_loss"}, "embeddings" of the first images, "labels" of these} of a batch of pairs."""
        if len(batch) != 2:
            raise InputError(f"a batch has {counted(len(batch), 'part')}; it is (images, partners), (targets, labels)")
        (images, partners), (targets, labels) = batch
        embeddings = self(images)
        loss = self.loss_func(embeddings, self(partners), targets)
        return {"loss": loss, "log": {"train_loss": loss.detach()}, "embeddings": embeddings, "labels": labels}
