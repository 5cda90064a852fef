"""What a process does that benchmarks/waiting.py waits for: `python benchmarks/_wait_probe.py NAME`.

It imports nothing before it is told what to do, so that its seconds and memory are those of what is asked for. The
peers' programs are what their READMEs show: PIL, torchvision's transforms, float32. Further figures are printed as
JSON.
"""

import json
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401

PIXELS, BATCH, TEST_BATCH = 80, 64, 64
TESTED = 400  # images of the test list that a test is on
MEAN = STD = (0.5, 0.5, 0.5)


def import_torch():
    import torch  # noqa: F401


def import_ours():
    from embeddings.embed import embed  # noqa: F401
    from engine.trainer import Trainer  # noqa: F401
    from losses import ArcMarginLoss  # noqa: F401
    from models import Embedder  # noqa: F401
    from retrieval.metrics.evaluation import evaluate  # noqa: F401


def reached(what):
    print(f"reached {what}", flush=True)


def peer_pml():
    """Its imports, a first step, and a test."""
    from pytorch_metric_learning import losses, testers, trainers  # noqa: F401

    reached("imports")
    first_step_pml()
    reached("first step")
    return test_pml()


def peer_oml():
    """As that of PML."""
    from oml.losses import ArcFaceLoss  # noqa: F401
    from oml.metrics import calc_retrieval_metrics_rr  # noqa: F401
    from oml.models import ViTExtractor  # noqa: F401
    from oml.retrieval import RetrievalResults  # noqa: F401

    reached("imports")
    first_step_oml()
    reached("first step")
    return test_oml()


def rows_of(file):
    """[(label, path)] of a list of the embedded set."""
    from data.embedded import embedded_data

    folder = embedded_data()  # once: it looks whether each image is there
    lines = (folder / file).read_text().splitlines()[1:]
    return [(int(line.split()[1]), folder / line.split()[3]) for line in lines]


def plain_images(file, count=None):
    """A torch data set (image, label from 0) of a list, or its first rows; images as PIL and torchvision give them."""
    from PIL import Image
    from torch.utils.data import Dataset
    from torchvision import transforms

    rows = rows_of(file)[:count]
    number = {label: place for place, label in enumerate(sorted({label for label, _ in rows}))}
    transform = transforms.Compose(
        [transforms.Resize((PIXELS, PIXELS)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )

    class Images(Dataset):
        def __len__(self):
            return len(rows)

        def __getitem__(self, index):
            label, path = rows[index]
            return transform(Image.open(path).convert("RGB")), number[label]

    return Images(), len(number)


def plain_network():
    """EfficientNet-Lite0 with the demo's ImageNet weights, pooled to 1,280 numbers, half of its stages frozen."""
    from torch import nn

    from models.backbones.timm import build_efficientnet_lite

    backbone = build_efficientnet_lite("0", "demo", "imagenet")
    for part in (backbone.conv_stem, backbone.bn1, *backbone.blocks[:4]):
        part.requires_grad_(False)
    return nn.Sequential(backbone, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def first_step_pml():
    import torch
    from pytorch_metric_learning import losses, trainers

    images, classes = plain_images("Ebay_train.txt")
    network, loss = plain_network(), losses.ArcFaceLoss(classes, 1280)
    optimisers = {
        "trunk_optimizer": torch.optim.AdamW(network.parameters(), lr=0.003),
        "metric_loss_optimizer": torch.optim.AdamW(loss.parameters(), lr=0.03),
    }
    trainers.MetricLossOnly(
        {"trunk": network},
        optimisers,
        BATCH,
        {"metric_loss": loss},
        images,
        iterations_per_epoch=1,
        dataloader_num_workers=0,
        data_device=torch.device("cpu"),
    ).train(num_epochs=1)


def first_step_oml():
    import torch
    from oml.losses import ArcFaceLoss

    images, classes = plain_images("Ebay_train.txt")
    network, loss = plain_network(), ArcFaceLoss(in_features=1280, num_classes=classes)
    optimiser = torch.optim.AdamW([*network.parameters(), *loss.parameters()], lr=0.003)
    batch, labels = next(iter(torch.utils.data.DataLoader(images, BATCH, shuffle=True)))
    loss(network(batch), labels).backward()
    optimiser.step()


def test_pml():
    """The test of PML's trainer: its tester over the test list."""
    from pytorch_metric_learning import testers
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    images, _ = plain_images("Ebay_test.txt", TESTED)
    calculator = AccuracyCalculator(include=("precision_at_1",), k=1)
    tester = testers.GlobalEmbeddingSpaceTester(
        batch_size=TEST_BATCH, dataloader_num_workers=0, accuracy_calculator=calculator
    )
    network = plain_network().eval()
    began = time.perf_counter()
    tester.test({"test": images}, 0, network)
    return {"test": time.perf_counter() - began}


def test_oml():
    """As its README: inference, retrieval results, figures."""
    import pandas
    from oml.datasets import ImageQueryGalleryLabeledDataset
    from oml.inference import inference
    from oml.metrics import calc_retrieval_metrics_rr
    from oml.retrieval import RetrievalResults
    from oml.transforms.images.torchvision import get_normalisation_resize_torch

    rows = rows_of("Ebay_test.txt")[:TESTED]
    table = pandas.DataFrame([(label, str(path)) for label, path in rows], columns=["label", "path"])
    table = table.assign(split="validation", is_query=True, is_gallery=True)
    images = ImageQueryGalleryLabeledDataset(table, transform=get_normalisation_resize_torch(im_size=PIXELS))
    network = plain_network().eval()
    began = time.perf_counter()
    embeddings = inference(network, images, batch_size=TEST_BATCH)
    results = RetrievalResults.from_embeddings(embeddings, images, n_items=10)
    calc_retrieval_metrics_rr(results, cmc_top_k=(1, 5, 10), precision_top_k=(), map_top_k=(), verbose=False)
    return {"test": time.perf_counter() - began}


def test_ours(rounds):
    """Medians in turn: the network alone over images in memory, the same with loading, and the whole of a test."""
    import statistics

    import torch

    from core.device import choose_device
    from data.lists import open_list
    from data.loader import open_test_loader
    from embeddings.embed import embed
    from engine.testing import Tester
    from models import ModelSettings, build_model

    settings = ModelSettings(model="EfficientNetLite0", pretrained_model="imagenet", image_shape=(3, PIXELS, PIXELS))
    network = build_model(settings, "imagenet").eval()
    records, device = open_list("Ebay_test.txt", None, "test").take(slice(TESTED)), choose_device(use_gpu=False)
    loader = open_test_loader(records, settings, TEST_BATCH, 0, device)
    tester = Tester(records, loader, device, "", None)
    batches = [images for images, _, _ in loader]

    def bare():
        with torch.inference_mode():
            for images in batches:
                network(images)

    def whole_test():
        return tester.recalls(tester.query_gallery(tester.embed(network)))

    kinds = {"bare": bare, "embed": lambda: embed(network, loader, device), "test": whole_test}
    found = {name: [] for name in kinds}
    for _ in range(int(rounds)):
        for name, function in kinds.items():
            began = time.perf_counter()
            function()
            found[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:]) or {}))
