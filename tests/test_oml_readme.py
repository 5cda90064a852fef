"""The blocks of Open Metric Learning's page, SEEDS=FOLDER, as printed but for `compat.` in front of their imports.

Weights and networks that they download are made (tests/oml_made.py). The project does not need the page: what it calls is
tested by tests/test_compat_oml*.py without it.
"""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from oml_made import make_text_network
from pages import blocks_of

SEEDS = os.environ.get("SEEDS")
PAGES = [page for page in sorted(Path(SEEDS).glob("*.txt")) if "from oml" in page.read_text()] if SEEDS else []
BLOCKS = [block for page in PAGES for block in blocks_of(page, page.name) if block.language == "python"]
# What a block has in it, and why it does not run.
SCHEMATIC = {
    "DataLoader(CategoryBalanceSampler())": "a scheme: a loader of no data set and a sampler of no labels",
    "NeptunePipelineLogger()": "a server and its key; loggers are tested in their offline modes",
    "{'active_tri':": "what a block printed",
}
# Packages that blocks are about.
PACKAGES = ("pytorch_lightning", "pytorch_metric_learning", "transformers")


def names_of_a_line(oml_home) -> dict[str, object]:
    """What blocks of a table of features take for given."""
    from torch.utils.data import DataLoader

    import compat.oml.metrics as m
    from compat.oml import datasets, inference, losses, miners, models, registry, retrieval, samplers
    from compat.oml.utils import get_mock_images_dataset

    names = {}
    for module in (datasets, inference, losses, miners, models, registry, retrieval, samplers, m):
        names.update({name: getattr(module, name) for name in module.__all__})
    df_train, df_val = get_mock_images_dataset(df_name="df_with_category.csv", global_paths=True)
    transform, _ = registry.get_transforms_for_pretrained("vits16_dino")
    train = datasets.ImageLabeledDataset(df_train, transform=transform)
    val = datasets.ImageQueryGalleryLabeledDataset(df_val, transform=transform)
    extractor = models.ViTExtractor.from_pretrained("vits16_dino")
    criterion = losses.TripletLossWithMiner(0.1)
    names.update(
        m=m,
        train=train,
        val=val,
        dataset=val,
        extractor=extractor,
        model=extractor,
        criterion=criterion,
        optimizer=torch.optim.SGD(extractor.parameters(), 1e-3),
        embeddings=torch.randn(len(val), 384),
        data=torch.randn(4, 3, 64, 64),
        gts=torch.tensor([0, 0, 1, 1]),
        train_loader=DataLoader(train, batch_sampler=samplers.BalanceSampler(train.get_labels())),
        val_loader=DataLoader(val, batch_size=8),
        query_categories=np.asarray(val.extra_data["category"]),
    )
    return names


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_a_block_runs_as_printed(block, oml_home):
    schemes = [why for words, why in SCHEMATIC.items() if words in block.text]
    if schemes:
        pytest.skip(schemes[0])
    if "DDPStrategy" in block.text:
        pytest.skip("two processes; tests/test_lightning.py starts them")
    for package in ("pandas", "matplotlib", *PACKAGES):
        if package in ("pandas", "matplotlib") or package in block.text:
            pytest.importorskip(package)
    if "from_pretrained('bert" in block.text or '"bert' in block.text:
        make_text_network(oml_home / "bert-base-uncased")
    if "roberta-base" in block.text:
        make_text_network(oml_home / "roberta-base", "roberta")
    names = {"__name__": "__main__"}
    if "from oml" not in block.text:
        names.update(names_of_a_line(oml_home))
        if "AutoModel" in block.text:
            import transformers

            names.update(AutoModel=transformers.AutoModel, AutoTokenizer=transformers.AutoTokenizer)
        if "pytorch_lightning" in block.text:
            import compat.lightning

            names.update(vars(compat.lightning))
    exec(compile(re.sub(r"^from oml\b", "from compat.oml", block.text, flags=re.M), block.place, "exec"), names)
