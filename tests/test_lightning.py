"""OML's modules on Lightning: training and figures in one process and in two, epochs in which the backbone stays."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from core.errors import InputError
from losses import LOSSES

ROOT = Path(__file__).resolve().parents[1]
pl = pytest.importorskip("lightning.pytorch", reason="compat/lightning.py needs requirements/lightning.txt")


class Rows(Dataset):
    """Points of four labels, as dictionaries; they come by the network's own names."""

    def __init__(self, count=21):
        rng = np.random.default_rng(0)
        self.labels = np.arange(count) % 4
        self.rows = torch.from_numpy(np.eye(4)[self.labels] + rng.normal(0, 0.1, (count, 4))).float()

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"input_tensors": self.rows[index], "labels": int(self.labels[index]), "idx": index}


class Network(nn.Module):
    """A backbone with a norm and a head; `freeze` and `unfreeze` are of the backbone."""

    def __init__(self, norm=nn.BatchNorm1d):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(4, 8), norm(8))
        self.head = nn.Linear(8, 3)

    def forward(self, rows):
        return self.head(self.backbone(rows))

    def freeze(self):
        self.backbone.requires_grad_(False).eval()

    def unfreeze(self):
        self.backbone.requires_grad_(True).train()


class Collected:
    """A metric that keeps what it is given, and says how many there were."""

    def __init__(self):
        self.calls = []

    def setup(self, num_samples):
        self.wanted = num_samples

    def update(self, embeddings, indices):
        self.part = (embeddings, indices)

    def compute_metrics(self):
        parts = [self.part]
        if torch.distributed.is_initialized():
            parts = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, self.part)
        of_index = {}
        for embeddings, indices in parts:
            of_index.update(zip(indices.tolist(), embeddings))
        indices = sorted(of_index)
        self.calls.append((torch.stack([of_index[index] for index in indices]), torch.tensor(indices)))
        return {"OVERALL": {"cmc": {1: torch.tensor(len(self.calls) / 10)}, "count": self.wanted}}


def trainer(folder, callbacks=(), **options):
    return pl.Trainer(
        default_root_dir=folder, accelerator="cpu", devices=1, callbacks=list(callbacks), enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, log_every_n_steps=1,
        **{"max_epochs": 2, "logger": False, **options},
    )  # fmt: skip


def module_of(network, **options):
    from compat.lightning import ExtractorModule

    optimiser = torch.optim.Adam(network.parameters(), lr=0.01, weight_decay=0.1)
    return ExtractorModule(network, LOSSES["multi_similarity"](), optimiser, **options)


def batches(data, size=8):
    return DataLoader(data, batch_sampler=BatchSampler(SequentialSampler(data), size, drop_last=True))


def test_a_list_is_validated_whole(tmp_path):
    from compat.lightning import MetricValCallback

    data, network, metric = Rows(), Network(), Collected()
    before = network.head.weight.clone()
    run = trainer(tmp_path, [MetricValCallback(metric)])
    run.fit(module_of(network), batches(data), DataLoader(data, batch_size=4))
    assert not torch.equal(network.head.weight, before)
    assert len(metric.calls) == 2
    embeddings, indices = metric.calls[-1]
    assert indices.tolist() == list(range(len(data)))
    with torch.no_grad():
        torch.testing.assert_close(embeddings, network.eval()(data.rows))
    assert float(run.callback_metrics["OVERALL/cmc/1"]) == pytest.approx(0.2)
    assert float(run.callback_metrics["OVERALL/count"]) == len(data)
    assert {"loss_epoch", "loss_step"} <= run.callback_metrics.keys()


def test_of_two_lists_each_has_its_figures(tmp_path):
    from compat.lightning import MetricValCallback

    first, second = Rows(9), Rows(13)
    metrics = [Collected(), Collected()]
    callbacks = [MetricValCallback(metric, loader_idx=number) for number, metric in enumerate(metrics)]
    run = trainer(tmp_path, callbacks, max_epochs=1)
    run.fit(module_of(Network()), batches(first), [DataLoader(first, batch_size=4), DataLoader(second, batch_size=4)])
    assert [metric.wanted for metric in metrics] == [9, 13]
    assert float(run.callback_metrics["OVERALL/count/dataloader_idx_1"]) == 13


def test_what_leaves_items_out_is_refused(tmp_path):
    from compat.lightning import ExtractorModule, ExtractorModuleDDP, MetricValCallback

    data = Rows()
    run = trainer(tmp_path, [MetricValCallback(Collected())], limit_val_batches=2)
    with pytest.raises(InputError, match="validation has seen 8 of the 21 items"):
        run.fit(module_of(Network()), batches(data), DataLoader(data, batch_size=4))
    with pytest.raises(InputError, match=r"metric is 5, without setup\(\)"):
        MetricValCallback(5)
    with pytest.raises(InputError, match="loader_idx is 3; with 1 validation loaders"):
        beyond = trainer(tmp_path, [MetricValCallback(Collected(), loader_idx=3)])
        beyond.fit(module_of(Network()), batches(data), DataLoader(data, batch_size=4))
    with pytest.raises(InputError, match="criterion is not given"):
        trainer(tmp_path).fit(ExtractorModule(Network()), batches(data))
    with pytest.raises(InputError, match="loaders_train is not given"):
        trainer(tmp_path).fit(ExtractorModuleDDP(Network(), loaders_val=data))
    with pytest.raises(
        InputError, match="freeze_n_epochs=1 needs a network that can be frozen, .* which Linear has not"
    ):
        ExtractorModule(nn.Linear(2, 2), freeze_n_epochs=1)
    with pytest.raises(InputError, match="neither loaders_train nor loaders_val"):
        ExtractorModuleDDP(Network())
    with pytest.raises(InputError, match="scheduler_interval is 'batch'"):
        ExtractorModule(Network(), scheduler_interval="batch")


@pytest.mark.parametrize("network", ["its own methods", "an Embedder"])
def test_frozen_epochs_freeze(tmp_path, network, tiny):
    """Behind one epoch of freezing the backbone is what it was, to the bit; behind two of three it is not."""
    from models import Embedder

    if network == "an Embedder":
        torch.manual_seed(0)
        network, data = Embedder("Tiny", 3), Rows()
        data.rows = (64 * data.rows[:, :3, None, None] + 128).clamp(0, 255).to(torch.uint8).expand(-1, -1, 16, 16)
    else:
        network, data = Network(), Rows()
    seen = []

    class Look(pl.Callback):
        def on_train_epoch_end(self, run, module):
            seen.append({name: value.clone() for name, value in module.model.state_dict().items()})

    before = {name: value.clone() for name, value in network.state_dict().items()}
    module = module_of(network, freeze_n_epochs=2)
    trainer(tmp_path, [Look()], max_epochs=3).fit(module, batches(data))
    for name, value in before.items():
        if name.startswith("backbone"):
            assert torch.equal(seen[0][name], value) and torch.equal(seen[1][name], value), name
    assert any(not torch.equal(seen[2][name], value) for name, value in before.items() if name.startswith("backbone"))
    assert any(not torch.equal(seen[0][name], value) for name, value in before.items() if name.startswith("head"))


class Pairs(nn.Module):
    """A network of pairs: a layer with a norm for both, and a head on the products of their numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        self.head = nn.Linear(8, 1)

    def forward(self, x1, x2):
        return self.head(self.backbone(x1) * self.backbone(x2))[:, 0]

    def freeze(self):
        self.backbone.requires_grad_(False)

    def unfreeze(self):
        self.backbone.requires_grad_(True)


class PairRows(Rows):
    """Points with the embeddings that pairs are found by: themselves."""

    def __getitem__(self, index):
        return {**super().__getitem__(index), "embeddings": self.rows[index]}


def hard_pairs(rows, labels):
    """[(one, other, whether their labels differ)]: each row with its farthest of its label and its nearest of others."""
    pairs = set()
    for anchor, row in enumerate(rows):
        distances = [(float((row - other).norm()), number) for number, other in enumerate(rows)]
        for differ in (False, True):
            of_these = [pair for pair in distances if (labels[pair[1]] != labels[anchor]) == differ]
            _, chosen = min(of_these) if differ else max(of_these)
            pairs.add((min(anchor, chosen), max(anchor, chosen), differ))
    return sorted(pairs)


def test_pairs_are_trained_as_by_hand(tmp_path, record_property):
    """An epoch of PairwiseModule beside steps of plain gradient descent in float64, on pairs found in loops."""
    from compat.lightning import PairwiseModule
    from compat.oml.miners import PairsMiner

    data = PairRows(16)
    network = nn.Bilinear(4, 4, 1)
    weight, bias = network.weight.detach().double()[0], network.bias.detach().double()
    by_batch = []
    for rows, labels in zip(data.rows.double().split(8), torch.tensor(data.labels).split(8), strict=True):
        pairs = hard_pairs(rows, labels.tolist())
        first, second = (rows[[pair[side] for pair in pairs]] for side in (0, 1))
        targets = torch.tensor([float(pair[2]) for pair in pairs], dtype=torch.float64)
        scores = torch.einsum("pi,ij,pj->p", first, weight, second) + bias
        by_batch.append(float((targets * -scores.sigmoid().log() + (1 - targets) * -(-scores).sigmoid().log()).mean()))
        slopes = (scores.sigmoid() - targets) / len(pairs)
        weight = weight - 0.5 * torch.einsum("p,pi,pj->ij", slopes, first, second)
        bias = bias - 0.5 * slopes.sum()

    criterion = nn.BCEWithLogitsLoss()

    def predicted(predictions, targets):
        return criterion(predictions[:, 0], targets)

    module = PairwiseModule(network, PairsMiner(), predicted, torch.optim.SGD(network.parameters(), 0.5))
    run = trainer(tmp_path, max_epochs=1)
    run.fit(module, batches(data))
    assert float(run.callback_metrics["loss_epoch"]) == pytest.approx(np.mean(by_batch), rel=1e-5)
    torch.testing.assert_close(network.weight[0].double(), weight, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(network.bias.double(), bias, rtol=1e-5, atol=1e-5)
    record_property("largest difference", (network.weight[0] - weight).detach().abs().max().item())
    assert module(data.rows[:2], data.rows[2:4]).shape == (2, 1)


def test_frozen_epochs_freeze_a_network_of_pairs(tmp_path):
    """Norms included, which `freeze` leaves in training; behind them the backbone learns, and its norms count."""
    from compat.lightning import PairwiseModuleDDP
    from compat.oml.miners import PairsMiner

    network, seen = Pairs(), []
    before = {name: value.clone() for name, value in network.state_dict().items()}

    class Look(pl.Callback):
        def on_train_epoch_end(self, run, module):
            seen.append({name: value.clone() for name, value in module.model.state_dict().items()})

    optimiser = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0.1)
    # By position as OML has them: loaders first.
    loader = batches(PairRows())
    module = PairwiseModuleDDP(
        loader, None, network, PairsMiner(), nn.BCEWithLogitsLoss(), optimiser, freeze_n_epochs=2
    )
    trainer(tmp_path, [Look()], max_epochs=3).fit(module)
    for name, value in before.items():
        stays = name.startswith("backbone")
        assert [torch.equal(state[name], value) for state in seen] == [stays, stays, False], name


def test_a_schedule_goes_by_steps_or_by_a_figure(tmp_path):
    from compat.lightning import MetricValCallback

    network, data = Network(), Rows()
    module = module_of(network)
    module.scheduler = torch.optim.lr_scheduler.StepLR(module.optimizer, 2, gamma=0.5)
    trainer(tmp_path, max_epochs=2).fit(module, batches(data))
    assert module.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 / 4)
    module = module_of(network, scheduler_interval="epoch", scheduler_monitor_metric="OVERALL/cmc/1")
    module.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(module.optimizer, mode="min", patience=0, factor=0.1)
    trainer(tmp_path, [MetricValCallback(Collected())], max_epochs=2).fit(
        module, batches(data), DataLoader(data, batch_size=5)
    )
    assert module.optimizer.param_groups[0]["lr"] == pytest.approx(0.001)


def test_parts_of_a_sampler_are_all_of_it():
    from compat.lightning import Part

    drawn = list(range(7))
    parts = [list(Part(drawn, rank, 2)) for rank in range(2)]
    assert parts == [[0, 2, 4, 6], [1, 3, 5, 0]] and [len(Part(drawn, rank, 2)) for rank in range(2)] == [4, 4]
    assert len(list(Part(RandomSampler(range(5)), 0, 3))) == 2


def test_the_storys_network_trains(tmp_path, record_property):
    from test_compat_hello import digits

    from compat.hello_mnist import SiameseMNIST
    from compat.lightning import SiameseModule

    module = SiameseModule()
    before = module.backbone.fc[0].weight.clone()
    trainer(tmp_path, max_epochs=1).fit(module, DataLoader(SiameseMNIST(digits(train=True)), batch_size=10))
    assert not torch.equal(module.backbone.fc[0].weight, before)
    record_property("largest change of a weight", (module.backbone.fc[0].weight - before).abs().max().item())


TWO_PROCESSES = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader
from test_lightning import Collected, Network, Rows, batches
from compat.lightning import ExtractorModuleDDP, MetricValCallback
from losses import LOSSES

torch.set_num_threads(1)
data, network, metric = Rows(), Network(torch.nn.LayerNorm), Collected()
seen = []

class Look(pl.Callback):
    def on_train_epoch_end(self, run, module):
        seen.append({{name: value.clone() for name, value in module.model.state_dict().items()}})

before = {{name: value.clone() for name, value in network.state_dict().items()}}
optimiser = torch.optim.Adam(network.parameters(), lr=0.01, weight_decay=0.1)
module = ExtractorModuleDDP(network, LOSSES["multi_similarity"](), optimiser, batches(data, 5), data, freeze_n_epochs=1)
ddp = {{"devices": 2, "strategy": DDPStrategy(process_group_backend="gloo"), "use_distributed_sampler": False}}
trainer = pl.Trainer(
    max_epochs=2, callbacks=[MetricValCallback(metric), Look()], accelerator="cpu", logger=False,
    enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False, **ddp
)
trainer.fit(module)
embeddings, indices = metric.calls[-1]
with torch.no_grad():
    expected = network.eval()(data.rows)
torch.save(
    {{
        "indices": indices,
        "error": (embeddings - expected).abs().max(),
        "weights": network.state_dict(),
        "stayed": [
            all(torch.equal(state[name], value) for name, value in before.items() if name.startswith("backbone"))
            for state in seen
        ],
        "figure": trainer.callback_metrics["OVERALL/cmc/1"],
    }},
    f"{folder}/{{trainer.global_rank}}.pt",
)
"""


def left_by_ranks(folder, program):
    """What each of two ranks has left in `folder`, of a program that a user starts as one process."""
    script = folder / "run.py"
    script.write_text(program.format(root=str(ROOT), tests=str(ROOT / "tests"), folder=str(folder)))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.slow
def test_two_processes(tmp_path):
    """Both see all of the list, have the same figures and weights, and the backbone stays where it is to."""
    first, second = left_by_ranks(tmp_path, TWO_PROCESSES)
    for result in (first, second):
        assert result["indices"].tolist() == list(range(21))
        assert result["error"] < 1e-5
        assert result["stayed"] == [True, False]
        assert result["figure"] == pytest.approx(0.2)
    for name, value in first["weights"].items():
        torch.testing.assert_close(second["weights"][name], value)


PAIRS_OF_TWO = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy
from test_lightning import PairRows, Pairs, batches
from compat.lightning import PairwiseModuleDDP
from compat.oml.miners import PairsMiner

torch.set_num_threads(1)
network, seen = Pairs(), []
before = {{name: value.clone() for name, value in network.named_parameters()}}

class Look(pl.Callback):
    def on_train_epoch_end(self, run, module):
        seen.append({{name: value.detach().clone() for name, value in module.model.named_parameters()}})

optimiser = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0.1)
module = PairwiseModuleDDP(
    batches(PairRows(32)), None, network, PairsMiner(), torch.nn.BCEWithLogitsLoss(), optimiser, freeze_n_epochs=1
)
trainer = pl.Trainer(
    max_epochs=2, callbacks=[Look()], accelerator="cpu", logger=False, enable_progress_bar=False, devices=2,
    enable_checkpointing=False, enable_model_summary=False, strategy=DDPStrategy(process_group_backend="gloo"),
)
trainer.fit(module)
stayed = [[name for name, value in before.items() if torch.equal(state[name], value)] for state in seen]
torch.save({{"weights": seen[-1], "stayed": stayed}}, f"{folder}/{{trainer.global_rank}}.pt")
"""


@pytest.mark.slow
def test_pairs_in_two_processes(tmp_path):
    """Both end with the same weights, whatever their batches were, and the backbone stays in the first epoch alone."""
    first, second = left_by_ranks(tmp_path, PAIRS_OF_TWO)
    for result in (first, second):
        held, moved = result["stayed"]
        assert held == ["backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "backbone.1.bias"] and moved == []
    for name, value in first["weights"].items():
        torch.testing.assert_close(second["weights"][name], value)


OMLS_EXAMPLES = """
import sys
sys.path[:0] = [{root!r}]
import lightning.pytorch
sys.modules["pytorch_lightning"] = lightning.pytorch
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader
from compat.oml.datasets import ImageLabeledDataset, ImageQueryGalleryLabeledDataset
from compat.oml.lightning import ExtractorModule, ExtractorModuleDDP, MetricValCallback
from compat.oml.losses import TripletLossWithMiner
from compat.oml.metrics import EmbeddingMetrics
from compat.oml.miners import AllTripletsMiner
from compat.oml.models import ResnetExtractor
from compat.oml.registry import get_transforms
from compat.oml.samplers import BalanceSampler
from compat.oml.utils import get_mock_images_dataset

torch.set_num_threads(1)
torch.manual_seed(0)
df_train, df_val = get_mock_images_dataset(global_paths=True)
transform = get_transforms("norm_resize_torch", im_size=32)
train_data = ImageLabeledDataset(df_train, transform=transform)
val = dataset = ImageQueryGalleryLabeledDataset(df_val, transform=transform)
model = ResnetExtractor(None, "resnet18", gem_p=None, remove_fc=True, normalise_features=True)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
criterion = TripletLossWithMiner(0.1, AllTripletsMiner(), need_logs=True)
sampler = BalanceSampler(train_data.get_labels(), n_labels=2, n_instances=2)
train = train_loader = DataLoader(train_data, batch_sampler=sampler)
val_loader = DataLoader(val, batch_size=4)

import pytorch_lightning as pl
{example}
torch.save(dict(trainer.callback_metrics), f"{folder}/{{trainer.global_rank}}.pt")
"""
# As OML's page prints them, but for the number of epochs.
ONE_PROCESS = """
clb = MetricValCallback(EmbeddingMetrics(dataset))
module = ExtractorModule(model, criterion, optimizer)

trainer = pl.Trainer(max_epochs=1, callbacks=[clb])
trainer.fit(module, train_loader, val_loader)
"""
OF_TWO = """
clb = MetricValCallback(EmbeddingMetrics(val))
module = ExtractorModuleDDP(
    model, criterion, optimizer, train, val
)

ddp = {"devices": 2, "strategy": DDPStrategy()}
trainer = pl.Trainer(max_epochs=1, callbacks=[clb], **ddp)
trainer.fit(module)
"""


@pytest.mark.slow
@pytest.mark.parametrize("example, processes", [(ONE_PROCESS, 1), (OF_TWO, 2)], ids=["one process", "two"])
def test_omls_examples(tmp_path, example, processes):
    pytest.importorskip("pandas", reason="OML's tables need pandas")
    script = tmp_path / "run.py"
    script.write_text(OMLS_EXAMPLES.format(root=str(ROOT), folder=str(tmp_path), example=example))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(processes)]
    assert {"OVERALL/cmc/5", "OVERALL/map/5", "OVERALL/pcf/0.5", "triplet_loss_epoch"} <= figures[0].keys()
    for other in figures[1:]:
        assert other["OVERALL/map/5"] == figures[0]["OVERALL/map/5"]
