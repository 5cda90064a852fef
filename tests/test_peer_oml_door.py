"""compat/oml beside the package that it is named after, on the same numbers."""

import numpy as np
import pytest
import torch
from torch import nn

from compat.oml.losses import ArcFaceLoss, SurrogatePrecision, TripletLossWithMiner
from compat.oml.metrics import EmbeddingMetrics
from compat.oml.miners import HardClusterMiner, HardTripletsMiner, MinerWithBank, NHardTripletsMiner, PairsMiner
from compat.oml.registry import get_transforms
from compat.oml.retrieval import AdaptiveThresholding, ConstantThresholding, RetrievalResults
from compat.oml.samplers import BalanceSampler, CategoryBalanceSampler

pytest.importorskip("oml", reason="parity with Open Metric Learning needs requirements/peers.txt")
from oml import losses as their_losses  # noqa: E402
from oml import miners as their_miners  # noqa: E402
from oml import retrieval as their_retrieval  # noqa: E402
from oml import samplers as their_samplers  # noqa: E402
from oml.interfaces.datasets import IQueryGalleryLabeledDataset  # noqa: E402
from oml.metrics import EmbeddingMetrics as TheirMetrics  # noqa: E402
from oml.registry.transforms import get_transforms as their_transforms  # noqa: E402

from compat.oml.interfaces.datasets import IQueryGalleryLabeledDataset as OurDataset  # noqa: E402

LABELS = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])


class _Points:
    """Embeddings that are their own inputs."""

    def __init__(self, points, labels, queries, gallery, extra_data):
        self.points = points
        self.labels = labels
        self.queries = queries
        self.gallery = gallery
        self.extra_data = extra_data
        self.input_tensors_key = "input_tensors"
        self.index_key = "idx"

    def __len__(self):
        return len(self.points)

    def __getitem__(self, item):
        return {"input_tensors": self.points[item], "idx": item, "labels": self.labels[item]}

    def get_labels(self):
        return self.labels

    def get_label2category(self):
        return None

    def get_query_ids(self):
        return self.queries

    def get_gallery_ids(self):
        return self.gallery


class Ours(_Points, OurDataset):
    pass


class Theirs(_Points, IQueryGalleryLabeledDataset):
    pass


def both(case):
    """The same data set for us and for them."""
    rng = np.random.default_rng(len(case))
    points = torch.from_numpy(rng.normal(size=(60, 6)).astype(np.float32))
    labels = np.arange(60) % 7
    everyone = torch.arange(60)
    queries = gallery = everyone
    extra = {}
    if case == "apart":
        queries, gallery = everyone[:35], everyone[25:]
    if case == "sequences":
        extra = {"sequence": [f"s{number}" for number in rng.integers(0, 20, 60)]}
    if case == "categories":
        extra = {"category": np.array(["a", "b"])[labels % 2]}
    given = (points, labels, queries, gallery, extra)
    return Ours(*given), Theirs(*given)


@pytest.mark.parametrize("case", ["one against the rest", "apart", "sequences"])
def test_results_and_thresholds(case):
    ours, theirs = both(case)
    mine = RetrievalResults.from_embeddings(ours.points, ours, n_items=9)
    other = their_retrieval.RetrievalResults.from_embeddings(theirs.points, theirs, n_items=9)
    chains = [
        (None, None),
        (ConstantThresholding(2.0), their_retrieval.ConstantThresholding(2.0)),
        (AdaptiveThresholding(1.5), their_retrieval.AdaptiveThresholding(1.5)),
    ]
    for our_step, their_step in chains:
        found = our_step.process(mine) if our_step else mine
        expected = their_step.process(other) if their_step else other
        for query in range(len(expected.retrieved_ids)):
            assert found.retrieved_ids[query].tolist() == expected.retrieved_ids[query].tolist()
            assert found.gt_ids[query].tolist() == expected.gt_ids[query].tolist()
            torch.testing.assert_close(found.distances[query], expected.distances[query], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["one against the rest", "apart", "categories"])
def test_embedding_metrics(case):
    ours, theirs = both(case)
    options = {"cmc_top_k": (1, 5), "map_top_k": (3,), "fmr_vals": (0.1,), "verbose": False}
    found = []
    for kind, dataset in ((EmbeddingMetrics, ours), (TheirMetrics, theirs)):
        metrics = kind(dataset, **options)
        metrics.setup()
        for batch in torch.randperm(60).split(16):
            metrics.update(dataset.points[batch], batch)
        found.append(metrics.compute_metrics())
    mine, other = found
    assert set(mine) == {str(name) for name in other}
    for category, figures in other.items():
        for name, by_k in figures.items():
            for k, value in by_k.items():
                assert float(mine[str(category)][name][k]) == pytest.approx(float(value), abs=1e-5), (category, name, k)


@pytest.mark.parametrize(
    "name, options",
    [
        ("HardTripletsMiner", {}),
        ("NHardTripletsMiner", {"n_positive": (1, 2), "n_negative": 3}),
        ("HardClusterMiner", {}),
    ],
)
@pytest.mark.parametrize("margin", [0.3, None])
def test_triplet_losses_with_miners(name, options, margin):
    torch.manual_seed(1)
    features = torch.randn(12, 5)
    ours = {"HardTripletsMiner": HardTripletsMiner, "NHardTripletsMiner": NHardTripletsMiner}
    miner = ours.get(name, HardClusterMiner)(**options)
    mine = TripletLossWithMiner(margin, miner, need_logs=True)
    other = their_losses.TripletLossWithMiner(margin, getattr(their_miners, name)(**options), need_logs=True)
    torch.testing.assert_close(mine(features, LABELS), other(features, LABELS), rtol=1e-4, atol=1e-4)
    assert mine.last_logs == pytest.approx(other.last_logs, rel=1e-4)


def test_pairs_and_banks():
    torch.manual_seed(2)
    features = torch.randn(12, 5)
    found = [
        {tuple(pair) for pair in zip(*(part.tolist() for part in miner.sample(features, LABELS.tolist())), strict=True)}
        for miner in (PairsMiner(), their_miners.PairsMiner())
    ]
    assert found[0] == found[1]
    mine = MinerWithBank(2, NHardTripletsMiner(2, 2))
    other = their_miners.MinerWithBank(2, their_miners.NHardTripletsMiner(2, 2))
    for _ in range(5):
        features = torch.randn(12, 5)
        chosen = [
            {tuple(row) for row in torch.cat(miner.sample(features, LABELS), dim=1).tolist()} for miner in (mine, other)
        ]
        assert chosen[0] == chosen[1]
        assert mine.last_logs == pytest.approx(other.last_logs)


def test_losses_over_classes_and_ranks():
    torch.manual_seed(3)
    features = torch.randn(12, 5, requires_grad=True)
    for options in (
        {},
        {"smoothing_epsilon": 0.2},
        {"smoothing_epsilon": 0.2, "label2category": {0: 0, 1: 0, 2: 1, 3: 1}},
    ):
        mine = ArcFaceLoss(5, 4, m=0.4, s=30, **options)
        other = their_losses.ArcFaceLoss(5, 4, m=0.4, s=30, **options)
        other.weight.data = mine.weight.data
        torch.testing.assert_close(mine(features, LABELS), other(features, LABELS), rtol=1e-4, atol=1e-4)
        assert float(mine.last_logs["accuracy"]) == float(other.last_logs["accuracy"])
    for reduction in ("mean", "sum"):
        mine = SurrogatePrecision(2, reduction=reduction)(features, LABELS)
        other = their_losses.SurrogatePrecision(2, reduction=reduction)(features, LABELS)
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-3)


def test_samplers_have_the_same_sizes_and_refuse_the_same():
    labels = np.repeat(np.arange(9), 3)
    categories = {label: label % 3 for label in range(9)}
    for sizes in ((2, 2), (4, 2), (9, 3)):
        mine, other = BalanceSampler(labels, *sizes), their_samplers.BalanceSampler(labels, *sizes)
        assert (len(mine), mine.batch_size) == (len(other), other.batch_size)
    for sizes in ((1, 2, 2), (3, 3, 2)):
        mine = CategoryBalanceSampler(labels, categories, *sizes)
        other = their_samplers.CategoryBalanceSampler(labels, categories, *sizes)
        assert (len(mine), mine.batch_size) == (len(other), other.batch_size)
    wrong = [
        ("BalanceSampler", (labels, 1, 2)),
        ("BalanceSampler", (labels, 10, 2)),
        ("BalanceSampler", (labels, 2, 1)),
        ("BalanceSampler", (np.r_[labels, 77], 2, 2)),
        ("CategoryBalanceSampler", (labels, categories, 4, 2, 2)),
        ("CategoryBalanceSampler", (labels, categories, 1, 4, 2)),
        ("CategoryBalanceSampler", (labels, {0: 0}, 1, 2, 2)),
        ("CategoryBalanceSampler", (labels, {**categories, 99: 0}, 1, 2, 2)),
        ("DistinctCategoryBalanceSampler", (labels, categories, 1, 4, 2, 5)),
    ]
    import compat.oml.samplers as our_samplers

    for name, given in wrong:
        with pytest.raises(Exception) as theirs:
            getattr(their_samplers, name)(*given)
        with pytest.raises(type(theirs.value)):
            getattr(our_samplers, name)(*given)


@pytest.mark.parametrize("name", ["norm_torch", "norm_resize_torch", "norm_resize_hypvit_torch", "unicom_transforms"])
def test_transforms_are_theirs_to_the_bit(name):
    from PIL import Image

    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (70, 50, 3), dtype=np.uint8))
    options = {} if name == "norm_torch" else {"im_size": 48}
    if name == "norm_resize_hypvit_torch":
        options["crop_size"] = 32
    assert torch.equal(get_transforms(name, **options)(picture), their_transforms(name, **options)(picture))


def test_the_transform_without_a_size_is_that_of_albumentations():
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    mine = get_transforms("norm_albu")(Image.fromarray(pixels))
    other = their_transforms("norm_albu")(image=pixels)["image"]
    torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def test_both_read_a_module_of_torch_as_a_model():
    from oml.inference import inference as their_inference

    from compat.oml.inference import inference

    ours, theirs = both("apart")
    model = nn.Linear(6, 3)
    mine = inference(model, ours, batch_size=7, num_workers=0)
    torch.testing.assert_close(mine, their_inference(model, theirs, batch_size=7, num_workers=0).float())


@pytest.mark.parametrize("folder", ["criterion", "miner", "optimizer", "sampler", "scheduler", "transforms"])
def test_every_section_of_omls_own_configurations_opens(folder):
    from pathlib import Path

    import oml
    import yaml

    from compat.oml import registry

    made = {"criterion": registry.get_criterion_by_cfg, "transforms": registry.get_transforms_by_cfg}
    make = made.get(folder) or getattr(registry, f"get_{folder}_by_cfg")
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], 0.1)
    at_run_time = {
        "optimizer": {"params": [weight]},
        "sampler": {"labels": np.repeat(np.arange(4), 3), "label2category": {0: 0, 1: 0, 2: 1, 3: 1}},
        "scheduler": {"optimizer": optimizer},
    }
    files = sorted(Path(oml.__file__).parent.glob(f"configs/{folder}/*.yaml"))
    assert len(files) > 2
    for file in files:
        section = yaml.safe_load(file.read_text())
        further = dict(at_run_time.get(folder, {}))
        if section["name"] in ("lambda", "multiplicative"):
            further["lr_lambda"] = float
        assert make(section, **further) is not None, file.name


def test_reranking_by_a_network():
    from oml.models.meta.siamese import LinearTrivialDistanceSiamese as TheirSiamese

    from compat.oml.models import LinearTrivialDistanceSiamese
    from compat.oml.retrieval import PairwiseReranker

    torch.manual_seed(5)
    ours, theirs = both("apart")
    mine = LinearTrivialDistanceSiamese(6, identity_init=False, output_bias=0.1)
    other = TheirSiamese(6, identity_init=False, output_bias=0.1)
    other.proj.weight.data = mine.scorer.proj.weight.data
    results = RetrievalResults.from_embeddings(ours.points, ours, n_items=8)
    their_results = their_retrieval.RetrievalResults.from_embeddings(theirs.points, theirs, n_items=8)
    for top_n in (2, 5, 8):
        found = PairwiseReranker(top_n, mine, num_workers=0, batch_size=7).process(results, ours)
        reranker = their_retrieval.PairwiseReranker(top_n, other, num_workers=0, batch_size=7)
        expected = reranker.process(their_results, theirs)
        for query in range(len(found)):
            assert found.retrieved_ids[query].tolist() == expected.retrieved_ids[query].tolist()
            torch.testing.assert_close(found.distances[query], expected.distances[query], rtol=1e-4, atol=2e-4)


def test_pairs_train_a_network_as_their_module_does(tmp_path, monkeypatch, record_property):
    """Two epochs of Lightning's trainer: the same weights, and the same figures in what is logged."""
    loggers = pytest.importorskip("pytorch_lightning.loggers", reason="needs requirements/lightning.txt")
    monkeypatch.setattr(loggers, "NeptuneLogger", loggers.CSVLogger, raising=False)  # Lightning has none any more
    import lightning.pytorch
    import pytorch_lightning
    from oml.lightning.modules.pairwise_postprocessing import PairwiseModule as TheirModule
    from oml.miners.pairs import PairsMiner as TheirPairs
    from oml.models.meta.siamese import LinearTrivialDistanceSiamese as TheirSiamese

    from compat.lightning import PairwiseModule
    from compat.oml.models import LinearTrivialDistanceSiamese

    torch.manual_seed(5)
    mine = LinearTrivialDistanceSiamese(6, identity_init=False, output_bias=0.1)
    other = TheirSiamese(6, identity_init=False, output_bias=0.1)
    other.proj.weight.data = mine.scorer.proj.weight.data.clone()
    points = torch.randn(24, 6)
    rows = [{"input_tensors": row, "embeddings": row, "labels": number % 4} for number, row in enumerate(points)]
    figures = []
    for kind, network, miner in ((PairwiseModule, mine, PairsMiner()), (TheirModule, other, TheirPairs())):
        optimiser = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.StepLR(optimiser, 2, gamma=0.5)
        module = kind(network, miner, nn.BCEWithLogitsLoss(), optimiser, schedule)
        # Ours are of the package that was imported first, wherever that was.
        pl = lightning.pytorch if isinstance(module, lightning.pytorch.LightningModule) else pytorch_lightning
        trainer = pl.Trainer(
            default_root_dir=tmp_path, accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, torch.utils.data.DataLoader(rows, batch_size=8))
        figures.append({name: float(value) for name, value in trainer.callback_metrics.items()})
    ours, theirs = figures
    # They log the mean over an epoch beside each step's.
    assert ours["lr"] == theirs["lr_step"] == pytest.approx(0.025)
    assert ours["loss_epoch"] == pytest.approx(theirs["loss_epoch"], rel=1e-4)
    torch.testing.assert_close(mine.scorer.proj.weight, other.proj.weight, rtol=1e-4, atol=1e-4)
    record_property("largest difference", float((mine.scorer.proj.weight - other.proj.weight).detach().abs().max()))


def test_ecapa_is_theirs_alone_and_behind_padding(tmp_path, record_property):
    """Of whole clips as they come there; of a shorter one in a batch as if it were alone."""
    pytest.importorskip("torchaudio", reason="their ECAPA-TDNN needs torchaudio")
    from oml.models.audio.ecapa_tdnn.extractor import ECAPATDNNExtractor as TheirExtractor
    from oml.utils.audios import default_spec_repr_func as their_spectrogram

    from compat.oml.models import ECAPATDNNExtractor
    from compat.oml.utils.audios import default_spec_repr_func

    torch.manual_seed(0)
    theirs = TheirExtractor(None, "ecapa_tdnn_taoruijie").eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
    # As its author's file has them, beside a loss's classes.
    tensors = {f"speaker_encoder.{name}": value for name, value in theirs.model.state_dict().items()}
    torch.save(tensors | {"speaker_loss.weight": torch.zeros(5, 192)}, tmp_path / "pretrain.model")
    ours = ECAPATDNNExtractor(tmp_path / "pretrain.model").eval()
    waves = torch.randn(3, 20_000) / 10
    with torch.no_grad():
        expected = theirs(waves)
        found = ours(waves[:, None])
        waves[1, 9_000:] = torch.nan
        shorter = ours(waves)[1] - theirs(waves[1:2, :9_000])[0]
    largest = max(float((found - expected).abs().max()), float(shorter.abs().max()))
    # Numbers of about 1 behind 50 layers of float32.
    assert largest < 1e-4
    record_property("largest difference of ECAPA-TDNN", largest)
    audio = torch.randn(1, 8_000)
    torch.testing.assert_close(default_spec_repr_func(audio), their_spectrogram(audio), rtol=1e-4, atol=1e-4)
