"""Model and loss as one module, so that the loop knows neither."""

from torch import nn

import distributed
from retrieval import recall_at_k


class Objective(nn.Module):
    """`forward(images, labels)` gives the loss; `figures()` says what the last batch looked like.

    part_of_loss: each of several ranks has a part of the loss's weights, whose gradient is whole then.
    batch_recall: figures hold Recall@1 within the batch (cosine), the ancestor's training figure for pair losses.
    """

    def __init__(self, model, loss, batch_recall=False, part_of_loss=False):
        super().__init__()
        self.model, self.loss = model, loss
        self.batch_recall, self.part_of_loss = batch_recall, part_of_loss
        self._last = None

    def forward(self, images, labels):
        """uint8 images (B, 3, H, W) of this rank, labels of all ranks' -> scalar."""
        return self.compare(self.model(images), labels)

    def compare(self, embeddings, labels):
        """Embeddings (B, D) of this rank's images, labels of all ranks' -> scalar, the same on every rank."""
        embeddings = distributed.all_gather(embeddings)
        self._last = (embeddings.detach(), labels)
        return self.loss(embeddings, labels)

    def figures(self):
        """Named floats of the last batch; reading them waits for the device, so ask only at display steps."""
        figures = {name: float(value.detach()) for name, value in getattr(self.loss, "logs", {}).items()}
        if self.batch_recall:
            figures["recall"] = recall_at_k(*self._last, ks=(1,))[1]
        return figures
