"""Class weights that are given and stay: an image network that learns where a text network puts the labels' names."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from core.errors import InputError
from core.text import counted
from data.records import Records
from data.vocabulary import of_one_kind
from embeddings.files import load_table
from losses._class_loss import ClassLoss


def fix_class_vectors(loss: nn.Module, train: Records, *, class_vectors: str | None = None) -> None:
    """Put the embeddings of a file in the place of a loss's class weights, and leave them there, where that is asked.

    Options:
        class_vectors: embeddings (.npz of infer.py) of each train label, as of its name by a text network; they are the
            class weights, and are not trained

    A label with several rows has their mean, each of unit length. Before the optimiser is made. Raises InputError for a
    loss without one class weight a label, a label that the file lacks, and another width.
    """
    if not class_vectors:
        return
    if not isinstance(loss, ClassLoss) or loss.weight.ndim != 2 or loss.shard is not None or loss.layers is not None:
        raise InputError(
            "--class_vectors are the weights of a loss with one for each label, such as norm_softmax, unsharded"
        )
    table = load_table(class_vectors, needs_roles=False)
    if table.width != loss.weight.shape[1]:
        raise InputError(
            f"{class_vectors!r} has {counted(table.width, 'number')} a row, and embeddings are {loss.weight.shape[1]} "
            f"wide; give --embedding_size={table.width}"
        )
    labels, given = of_one_kind(train.vocabulary.labels, table.records.labels)
    missing = np.flatnonzero(~np.isin(labels, given))
    if len(missing):
        label = train.names.of_label(train.vocabulary.labels[missing[0]])
        raise InputError(
            f"{class_vectors!r} has no row of {len(missing)} of {counted(len(labels), 'train label')}, first {label!r}"
        )
    rows = np.flatnonzero(np.isin(given, labels))
    code_of = {label: code for code, label in enumerate(labels.tolist())}
    codes = torch.tensor([code_of[label] for label in given[rows].tolist()])
    vectors = F.normalize(table.matrix[torch.from_numpy(rows)].float())
    weight = torch.zeros_like(loss.weight).index_add(0, codes, vectors)
    with torch.no_grad():
        loss.weight.copy_(F.normalize(weight))
    loss.weight.requires_grad_(False)
