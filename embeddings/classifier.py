"""The loss of a stage 1 run as a classifier of embeddings."""

import numpy as np
import torch
from torch import nn

from core.errors import InputError
from core.types import Switch
from data.names import Names
from losses import LOSSES
from losses._nested_widths import full_width_state
from models.weights import is_published, read_weights, weights_file

LIKELIEST = 5


class Classifier:
    """Tells which train labels are likely for an embedding.

    source: --pretrained_model, a run of train_elem.py or a checkpoint of one. Raises InputError for anything else.
    """

    def __init__(self, source: str | None):
        self.loss, state = open_class_loss(source, "--scores")
        self.loss.eval()
        self.labels = Names(state.get("names", {}), {}).of_labels(classes_of(state))

    @torch.inference_mode()
    def likeliest(self, embeddings: torch.Tensor) -> list[list[tuple[str, float]]]:
        """The five likeliest labels of each embedding (N, D), with their probabilities."""
        probabilities = self.loss.scores(embeddings).softmax(dim=1)
        values, codes = probabilities.topk(min(LIKELIEST, len(self.labels)), dim=1)
        return [list(zip(self.labels[row], shares)) for row, shares in zip(codes.numpy(), values.tolist())]


def open_class_loss(
    source: str | None, flag: str, embedding_size: int | None = None
) -> tuple[nn.Module, dict[str, object]]:
    """(the loss of a stage 1 run with its options and weights, the checkpoint that they are from).

    source: --pretrained_model; flag: what asks for it, as messages say; embedding_size: of the network that is to go
    with it, None for the run's own. Raises InputError where `source` is no such run.
    """
    state = {}
    if source and not is_published(source):
        state = read_weights(weights_file(source))
    flags = {}
    if "config" in state:
        flags = state["config"]["flags"]
    name = flags.get("loss_name")
    if name not in LOSSES.names(stage="elem"):
        raise InputError(f"{flag} needs a run of train_elem.py as --pretrained_model, got {source!r}")
    loss_state = full_width_state(state["loss"])
    width, classes = LOSSES[name].sizes(loss_state)
    if embedding_size is not None and embedding_size != width:
        raise InputError(f"{flag}: the class weights of {source!r} are {width} wide, the embeddings {embedding_size}")
    # An option that came later than the run has its default.
    chosen = {option.name: flags[option.name] for option in LOSSES.options(name) if option.name in flags}
    loss = LOSSES[name](embedding_size=width, num_classes=classes, **chosen)
    loss.load_state_dict(loss_state)
    return loss, state


def classes_of(state: dict[str, object]) -> np.ndarray:
    """The label (C,) that each class of a checkpoint's loss stands for, as Vocabulary has them."""
    labels = state["classes"]
    if torch.is_tensor(labels):
        return labels.numpy()
    return np.array(labels, dtype=np.str_)


def open_classifier(pretrained_model: str | None, *, scores: Switch = False) -> Classifier | None:
    """The Classifier of a run, if it is asked for.

    Options:
        scores: print the five likeliest train labels (stage 1 runs)

    Raises InputError as Classifier does.
    """
    if not scores:
        return None
    return Classifier(pretrained_model)
