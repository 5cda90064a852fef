"""OML's re-ranking by a network that looks at pairs."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from compat.oml._errors import RefusedAssertion, raised_as, require
from compat.oml.inference.abstract import BATCH_SIZE, pairwise_inference
from compat.oml.interfaces.datasets import IQueryGalleryDataset
from compat.oml.interfaces.retrieval import IRetrievalPostprocessor
from compat.oml.retrieval.retrieval_results import RetrievalResults
from retrieval.rerank import Pairwise
from core.text import counted

ORDER = ("top_n", "pairwise_model", "num_workers", "batch_size", "verbose", "use_fp16")
DEFAULTS = {"top_n": 5, "num_workers": 0, "batch_size": BATCH_SIZE, "verbose": False, "use_fp16": False}


class PairwiseReranker(IRetrievalPostprocessor):
    """Puts each query's first top_n items in the order of what `pairwise_model` predicts of query and item.

    PairwiseReranker(top_n, pairwise_model, num_workers, batch_size, verbose, use_fp16), or the network first, as in
    PairwiseReranker(pairwise_model, top_n=3).
    """

    top_n: int

    def __init__(self, *positional: Any, **named: Any) -> None:
        order = ORDER
        if positional and isinstance(positional[0], nn.Module):
            order = ("pairwise_model", "top_n", *ORDER[2:])
        given = dict(zip(order, positional))
        wrong = [name for name in named if name not in ORDER or name in given]
        if wrong or len(positional) > len(order):
            raise TypeError(
                f"PairwiseReranker takes {', '.join(ORDER)}, each once, and not {', '.join(wrong) or 'more'}"
            )
        options = {**DEFAULTS, **given, **named}
        if "pairwise_model" not in options:
            raise TypeError("PairwiseReranker needs a pairwise_model")
        require(options["top_n"] > 1, f"top_n is {options['top_n']}; at least two items have to be put in order")
        self.model = options["pairwise_model"]
        self.top_n = options["top_n"]
        self.num_workers = options["num_workers"]
        self.batch_size = options["batch_size"]
        self.verbose = options["verbose"]
        self.use_fp16 = options["use_fp16"]

    def process(self, rr: RetrievalResults, dataset: IQueryGalleryDataset) -> RetrievalResults:
        """The results of a dataset's queries, as many items each, in the new order (retrieval/rerank/pairwise.py)."""
        query_ids = torch.as_tensor(dataset.get_query_ids()).reshape(-1)
        gallery_ids = torch.as_tensor(dataset.get_gallery_ids()).reshape(-1)
        require(
            len(query_ids) == len(rr), f"results are of {counted(len(rr), 'query')}, the dataset has {len(query_ids)}"
        )

        def distances(queries: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
            pairs = list(zip(query_ids[queries].tolist(), gallery_ids[items].tolist()))
            return pairwise_inference(
                self.model, dataset, pairs, self.num_workers, self.batch_size, self.verbose, self.use_fp16
            )

        with raised_as(RefusedAssertion):
            # Of queries and gallery it asks for the rows of queries alone.
            return Pairwise(distances, top_n=self.top_n).process(rr, SimpleNamespace(query_rows=torch.arange(len(rr))))


__all__ = ["PairwiseReranker"]
