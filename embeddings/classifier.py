"""The loss of a stage 1 run as a classifier of embeddings."""

import numpy as np
import torch

from core.errors import InputError
from core.types import Switch
from data.names import Names
from losses import LOSSES
from models.weights import read_weights, weights_file

LIKELIEST = 5


class Classifier:
    """Tells which train labels are likely for an embedding.

    source: --pretrained_model, a run of train_elem.py or a checkpoint of one. Raises InputError for anything else.
    """

    def __init__(self, source: str | None):
        state = {}
        if source and source != "imagenet":
            state = read_weights(weights_file(source))
        flags = {}
        if "config" in state:
            flags = state["config"]["flags"]
        name = flags.get("loss_name")
        if name not in LOSSES.names(stage="elem"):
            raise InputError(f"--scores needs a run of train_elem.py as --pretrained_model, got {source!r}")
        width, classes = LOSSES[name].sizes(state["loss"])
        # A run of an earlier version knows fewer options.
        chosen = {option.name: flags.get(option.name, option.default) for option in LOSSES.options(name)}
        self.loss = LOSSES[name](embedding_size=width, num_classes=classes, **chosen)
        self.loss.load_state_dict(state["loss"])
        self.loss.eval()

        labels = state["classes"]
        if torch.is_tensor(labels):
            labels = labels.numpy()
        else:
            labels = np.array(labels, dtype=np.str_)
        self.labels = Names(state.get("names", {}), {}).of_labels(labels)

    @torch.inference_mode()
    def likeliest(self, embeddings: torch.Tensor) -> list[list[tuple[str, float]]]:
        """The five likeliest labels of each embedding (N, D), with their probabilities."""
        probabilities = self.loss.scores(embeddings).softmax(dim=1)
        values, codes = probabilities.topk(min(LIKELIEST, len(self.labels)), dim=1)
        return [list(zip(self.labels[row], shares)) for row, shares in zip(codes.numpy(), values.tolist())]


def open_classifier(pretrained_model: str | None, *, scores: Switch = False) -> Classifier | None:
    """The Classifier of a run, if it is asked for.

    Options:
        scores: print the five likeliest train labels (stage 1 runs)

    Raises InputError as Classifier does.
    """
    if not scores:
        return None
    return Classifier(pretrained_model)
