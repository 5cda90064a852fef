"""OML's pairwise networks and its re-ranking by them, each against what it says it computes."""

import pytest
import torch
from test_compat_oml import Points
from torch import nn

from compat.oml.inference import pairwise_inference
from compat.oml.interfaces.models import IExtractor, IPairwiseModel
from compat.oml.metrics import EmbeddingMetrics
from compat.oml.models import ConcatSiamese, LinearTrivialDistanceSiamese, TrivialDistanceSiamese
from compat.oml.registry import PAIRWISE_MODELS_REGISTRY, get_pairwise_model
from compat.oml.retrieval import PairwiseReranker, RetrievalResults


class Mean(IExtractor):
    """The mean of each channel."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return x.mean((2, 3)) * self.scale

    @property
    def feat_dim(self):
        return 3


class Told(IPairwiseModel):
    """Distances that are given for pairs of numbers."""

    def __init__(self, distances):
        super().__init__()
        self.distances = distances
        self.weight = nn.Parameter(torch.zeros(1))

    def predict(self, x1, x2):
        return self.distances[x1[:, 0].long(), x2[:, 0].long()]


@pytest.mark.parametrize("use_tta", [False, True])
def test_one_picture_of_both(use_tta):
    torch.manual_seed(0)
    first, second = torch.randn(2, 4, 3, 6, 5)
    model = ConcatSiamese(Mean(), mlp_hidden_dims=[7], use_tta=use_tta).eval()
    scores = model(x1=first, x2=second)
    assert scores.shape == (4,)
    expected = torch.sigmoid(scores)
    if use_tta:
        expected = (expected + torch.sigmoid(model(second, first))) / 2
    torch.testing.assert_close(model.predict(first, second), expected)
    nn.functional.binary_cross_entropy_with_logits(scores, torch.ones(4)).backward()
    assert model.extractor.scale.grad is not None
    model.freeze()
    assert not model.train_backbone
    model.unfreeze()
    assert model.train_backbone


def test_weights_of_a_pairwise_network_are_read_again(tmp_path):
    model = ConcatSiamese(Mean(), [4])
    torch.save({"state_dict": model.state_dict()}, tmp_path / "pair.ckpt")
    again = ConcatSiamese(Mean(), [4], weights=tmp_path / "pair.ckpt")
    assert all(
        torch.equal(*pair) for pair in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )
    with pytest.raises(ValueError, match="holds no such network"):
        ConcatSiamese(Mean(), [5], weights=tmp_path / "pair.ckpt")


def test_distances_of_embeddings():
    first, second = torch.randn(2, 4, 3)
    linear = LinearTrivialDistanceSiamese(3, identity_init=True, output_bias=0.5)
    torch.testing.assert_close(linear.predict(first, second), (first - second).norm(dim=1) + 0.5)
    assert [name for name, weight in linear.named_parameters() if weight.requires_grad] == ["scorer.proj.weight"]
    images = torch.randn(2, 4, 3, 5, 5)
    trivial = TrivialDistanceSiamese(Mean(), output_bias=1)
    expected = (images[0].mean((2, 3)) - images[1].mean((2, 3))).norm(dim=1) + 1
    torch.testing.assert_close(trivial.predict(*images), expected)
    assert set(PAIRWISE_MODELS_REGISTRY) == {"linear_siamese", "concat_siamese", "trivial_distance_siamese"}
    assert isinstance(
        get_pairwise_model("linear_siamese", feat_dim=3, identity_init=False), LinearTrivialDistanceSiamese
    )


def test_reranking_puts_the_first_items_in_order_and_leaves_the_rest():
    # As examples of OML's own page: query 0 is not in the gallery of rows 1 to 5.
    points = torch.arange(6.0)[:, None]
    dataset = Points(points, [0] * 6, is_query=[0], is_gallery=[1, 2, 3, 4, 5])
    results = RetrievalResults([torch.tensor([0.1, 0.2, 0.5, 0.6, 0.7])], [torch.tensor([3, 2, 1, 0, 4])])
    distances = torch.full((6, 6), torch.nan)
    distances[0, [4, 3, 2]] = torch.tensor([0.4, 0.2, 0.3])
    for reranker in (
        PairwiseReranker(3, Told(distances), 0, 2),
        PairwiseReranker(Told(distances), top_n=3),
        PairwiseReranker(top_n=3, pairwise_model=Told(distances), num_workers=0, batch_size=1),
        PairwiseReranker(3, Told(distances)),
    ):
        found = reranker.process(results, dataset=dataset)
        assert found.retrieved_ids[0].tolist() == [2, 1, 3, 0, 4]
        torch.testing.assert_close(found.distances[0], torch.tensor([0.2, 0.3, 0.4, 0.6, 0.7]))
    distances[0, [4, 3, 2]] = torch.tensor([1.0, 2, 5])
    results = RetrievalResults([torch.tensor([0.1, 0.2, 0.3, 0.5, 0.6])], [torch.tensor([3, 2, 1, 0, 4])])
    found = PairwiseReranker(3, Told(distances)).process(results, dataset)
    torch.testing.assert_close(found.distances[0], torch.tensor([0.1, 0.2, 0.5, 0.5, 0.6]), atol=2e-4, rtol=0)
    with pytest.raises(AssertionError, match="top_n is 1"):
        PairwiseReranker(1, Told(distances))
    with pytest.raises(TypeError, match="each once, and not depth"):
        PairwiseReranker(3, Told(distances), depth=1)
    with pytest.raises(AssertionError, match="results are of 1 query, the dataset has 6"):
        PairwiseReranker(3, Told(distances)).process(results, Points(points, [0] * 6))


def test_a_reranker_in_metrics_and_pairs_by_themselves():
    points = torch.randn(12, 4)
    dataset = Points(points, [0, 1, 2] * 4)
    model = LinearTrivialDistanceSiamese(4, identity_init=True)
    pairs = [(0, 3), (5, 1)]
    found = pairwise_inference(model, dataset, pairs, batch_size=1, verbose=False)
    torch.testing.assert_close(found, torch.stack([(points[a] - points[b]).norm() for a, b in pairs]))
    figures = []
    for postprocessor in (None, PairwiseReranker(model, top_n=4)):
        metrics = EmbeddingMetrics(dataset, cmc_top_k=(1,), postprocessor=postprocessor, verbose=False)
        metrics.setup()
        metrics.update(points, torch.arange(12))
        figures.append(metrics.compute_metrics())
    assert figures[0] == figures[1]


def test_the_short_spelling_of_a_table_of_features():
    pytest.importorskip("timm", reason="ViTs need requirements/models.txt")
    reranker = PairwiseReranker(ConcatSiamese(), top_n=3)
    assert reranker.top_n == 3 and reranker.model.extractor.feat_dim == 384
