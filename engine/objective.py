"""Model and loss as one module, so that the loop knows neither."""

from torch import nn

from retrieval import recall_at_k


class Objective(nn.Module):
    """`forward(images, labels)` gives the loss; `figures()` says what the last batch looked like.

    batch_recall: figures hold Recall@1 within the batch (cosine), the ancestor's training figure for pair losses.
    """

    def __init__(self, model, loss, batch_recall=False):
        super().__init__()
        self.model, self.loss, self.batch_recall = model, loss, batch_recall
        self._last = None

    def forward(self, images, labels):
        """uint8 images (B, 3, H, W), labels (B,) -> scalar."""
        return self.compare(self.model(images), labels)

    def compare(self, embeddings, labels):
        """Embeddings (B, D), labels (B,) -> scalar."""
        self._last = (embeddings.detach(), labels)
        return self.loss(embeddings, labels)

    def figures(self):
        """Named floats of the last batch; reading them waits for the device, so ask only at display steps."""
        figures = {name: float(value.detach()) for name, value in getattr(self.loss, "logs", {}).items()}
        if self.batch_recall:
            figures["recall"] = recall_at_k(*self._last, ks=(1,))[1]
        return figures
