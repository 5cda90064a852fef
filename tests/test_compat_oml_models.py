"""OML's networks, transforms and mock data sets, and an example from the first line to the last."""

from pathlib import Path

import numpy as np
import pytest
import torch
from oml_made import make_text_network
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from compat.oml.interfaces.models import IExtractor
from compat.oml.models import ExtractorWithMLP, HFWrapper, ResnetExtractor, ViTExtractor
from compat.oml.models.vit_clip.extractor import ViTCLIPExtractor
from compat.oml.models.vit_dino.extractor import THREE_SCALES
from compat.oml.models.vit_unicom.extractor import ViTUnicomExtractor
from compat.oml.registry import get_extractor, get_transforms_for_pretrained
from compat.oml.utils._drawn_shapes import draw_shapes
from core.errors import InputError
from models.backbones.oml import CLIPS, RESNETS, UNICOMS, VITS


def test_published_weights_by_key_by_name_and_by_file(oml_home, oml_hub):
    import timm

    from compat.oml.const import CKPT_SAVE_ROOT

    pixels = torch.randn(2, 3, 64, 64)
    network = timm.create_model("vit_small_patch16_224.dino", num_classes=0, dynamic_img_size=True).eval()
    network.load_state_dict(torch.load(oml_hub / "checkpoints" / "dino_deitsmall16_pretrain.pth"))
    with torch.no_grad():
        expected = network(pixels)
        by_key = ViTExtractor.from_pretrained("vits16_dino").eval()
        torch.testing.assert_close(by_key(pixels), expected, rtol=1e-4, atol=1e-4)
        assert by_key.feat_dim == 384 and torch.equal(by_key.extract(pixels), by_key(pixels))
        # As an example of OML has it, which keeps downloads under the names of keys.
        by_name = ViTExtractor(CKPT_SAVE_ROOT / "vits16_dino.ckpt", "vits16", normalise_features=True).eval()
        torch.testing.assert_close(by_name(pixels), nn.functional.normalize(by_key(pixels)))
        torch.save({"state_dict": {f"model.{name}": value for name, value in network.state_dict().items()}}, "own.ckpt")
        by_file = ViTExtractor("own.ckpt", arch="vits16", normalise_features=False).eval()
        assert torch.equal(by_file(pixels), by_key(pixels))
        by_file.model.test_scales = THREE_SCALES
        assert not torch.allclose(by_file(pixels), by_key(pixels)) and by_file(pixels).shape == (2, 384)
    drawn = by_key.draw_attention(Image.fromarray(np.zeros((40, 50, 3), np.uint8)))
    assert isinstance(drawn, Image.Image) and drawn.size == (50, 40)
    assert by_key.draw_attention(np.zeros((40, 50, 3), np.uint8)).shape == (40, 50, 3)


def test_networks_that_are_refused(oml_home):
    with pytest.raises(KeyError, match="unknown weights of ViTExtractor 'vits16_dinoo'.* mean 'vits16_dino'"):
        ViTExtractor.from_pretrained("vits16_dinoo")
    with pytest.raises(InputError, match="no file 'gone.ckpt'"):
        ViTExtractor("gone.ckpt", "vits16", False)
    with pytest.raises(AssertionError, match="unknown architecture of ViTExtractor 'vits17'"):
        ViTExtractor(None, "vits17", False)
    with pytest.raises(InputError, match="remove_fc"):
        ResnetExtractor(None, "resnet18", None, False, False)
    with pytest.raises(InputError, match="does not hold a vits16_dino"):
        torch.save({"a": torch.zeros(1)}, "other.ckpt")
        ViTExtractor("other.ckpt", "vits16", False)


def test_resnets_pool_by_a_power_that_stays(tmp_path):
    pixels = torch.randn(2, 3, 64, 64)
    extractor = ResnetExtractor(None, "resnet18", gem_p=5.0, remove_fc=True, normalise_features=False).eval()
    assert extractor.feat_dim == 512 and not extractor.model.pooling.p.requires_grad
    with torch.no_grad():
        maps = extractor.model.backbone(pixels)
        expected = maps.clamp_min(1e-6).pow(5).mean((2, 3)).pow(1 / 5)
        torch.testing.assert_close(extractor(pixels), expected)
        torch.save({"state_dict": extractor.state_dict()}, tmp_path / "own.ckpt")
        again = ResnetExtractor(tmp_path / "own.ckpt", "resnet18", 5.0, True, False).eval()
        assert torch.equal(again(pixels), extractor(pixels))
    assert extractor.draw_gradcam(np.zeros((40, 50, 3), np.uint8)).shape == (40, 50, 3)


def test_a_perceptron_behind_an_extractor(tmp_path):
    pixels = torch.randn(2, 3, 32, 32)
    section = {"name": "resnet", "args": {"weights": None, "arch": "resnet18", "gem_p": None, "remove_fc": True}}
    model = get_extractor("extractor_with_mlp", extractor=section, mlp_features=[16, 4])
    assert isinstance(model, ExtractorWithMLP) and model.feat_dim == 4
    model(pixels).sum().backward()
    assert all(weight.grad is None for weight in model.extractor.parameters())
    model.unfreeze()
    model(pixels).sum().backward()
    assert all(weight.grad is not None for weight in model.extractor.parameters())
    model.eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "own.ckpt")
    extractor = ResnetExtractor(None, "resnet18")
    again = ExtractorWithMLP(extractor, [16, 4], weights=tmp_path / "own.ckpt").eval()
    with torch.no_grad():
        assert torch.equal(again(pixels), model(pixels))


def test_tables_of_weights_and_their_transforms():
    kinds = {ViTExtractor: VITS, ResnetExtractor: RESNETS, ViTCLIPExtractor: CLIPS, ViTUnicomExtractor: UNICOMS}
    picture = Image.fromarray(np.zeros((50, 90, 3), np.uint8))
    for kind, table in kinds.items():
        assert set(kind.pretrained_models) == set(table)
        for key, row in kind.pretrained_models.items():
            assert row["init_args"]["arch"] in kind.constructors
            transform, _ = get_transforms_for_pretrained(key)
            side = UNICOMS.get(key, {}).get("size", 224)
            assert transform(picture).shape == (3, side, side)
    with pytest.raises(KeyError, match="unknown weights 'vits16_dinos'"):
        get_transforms_for_pretrained("vits16_dinos")


def test_readers(tmp_path):
    draw_shapes(tmp_path)
    file = tmp_path / "images" / "circle_1.jpg"
    transform, im_reader = get_transforms_for_pretrained("vits16_dino")
    picture = im_reader(file)
    assert picture.size == (64, 64) and transform(picture).shape == (3, 224, 224)
    assert im_reader(file.read_bytes()).tobytes() == im_reader(str(file)).tobytes() == picture.tobytes()
    with pytest.raises(TypeError, match="not of int"):
        im_reader(1)


def test_networks_of_transformers(tmp_path, record_property):
    transformers = pytest.importorskip("transformers", reason="texts need requirements/text.txt")
    for kind in ("bert", "roberta"):
        folder = str(make_text_network(tmp_path / kind, kind))
        model = transformers.AutoModel.from_pretrained(folder).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        inputs = tokenizer(text=["Hello world", "so"], return_tensors="pt", padding=True, add_special_tokens=True)
        extractor = HFWrapper(model)
        assert extractor.feat_dim == HFWrapper(model, feat_dim=768).feat_dim == 768
        with torch.no_grad():
            expected = model(**inputs.to("cpu")).last_hidden_state[:, 0]
            found = extractor(inputs)
            assert torch.equal(found, expected)
        record_property("numbers of embeddings equal to the bit", found.numel())


class Small(IExtractor):
    """A network of a user."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 16, 16)

    def forward(self, x):
        return self.layer(x).mean((2, 3))

    @property
    def feat_dim(self):
        return 4


def test_training_and_validation_from_the_first_line_to_the_last(oml_home):
    """As OML's first example, with a small network of a user in the place of its ViT."""
    pytest.importorskip("pandas", reason="mock data sets need requirements/oml.txt")
    pytest.importorskip("matplotlib", reason="visualize() needs requirements/oml.txt")
    from compat.oml import datasets as d
    from compat.oml.inference import inference
    from compat.oml.losses import TripletLossWithMiner
    from compat.oml.metrics import calc_retrieval_metrics_rr
    from compat.oml.miners import AllTripletsMiner
    from compat.oml.retrieval import AdaptiveThresholding, ConstantThresholding, RetrievalResults
    from compat.oml.samplers import BalanceSampler
    from compat.oml.utils import get_mock_images_dataset

    model = Small()
    df_train, df_val = get_mock_images_dataset(global_paths=True)
    train = d.ImageLabeledDataset(df_train)
    val = d.ImageQueryGalleryLabeledDataset(df_val)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    criterion = TripletLossWithMiner(0.1, AllTripletsMiner(), need_logs=True)
    for batch in DataLoader(train, batch_sampler=BalanceSampler(train.get_labels(), n_labels=2, n_instances=2)):
        loss = criterion(model(batch["input_tensors"]), batch["labels"])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert set(criterion.last_logs) == {"active_tri", "pos_dist", "neg_dist"}

    embeddings = inference(model, val, batch_size=4, num_workers=0)
    rr = RetrievalResults.from_embeddings(embeddings, val, n_items=3)
    rr = AdaptiveThresholding(n_std=2).process(rr)
    figure = rr.visualize(query_ids=[2, 1], dataset=val, show=True)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == "Query #2" and titles.count("GT") == 4
    metrics = calc_retrieval_metrics_rr(rr, map_top_k=(3,), cmc_top_k=(1,))
    assert {name: list(by_k) for name, by_k in metrics.items()} == {"cmc": [1], "precision": [5], "map": [3]}

    # Queries that come in portions, of a gallery that is embedded once, without labels.
    paths = df_val["path"]
    gallery, queries = d.ImageBaseDataset(paths[:12]), d.ImageBaseDataset(paths[12:14])
    rr = RetrievalResults.from_embeddings_qg(
        embeddings_query=inference(model, queries),
        embeddings_gallery=inference(model, gallery),
        dataset_query=queries,
        dataset_gallery=gallery,
    )
    rr = ConstantThresholding(th=80).process(rr)
    rr.visualize_qg([0, 1], dataset_query=queries, dataset_gallery=gallery, show=True)
    assert "2 queries" in str(rr) and rr.gt_ids is None


def test_mock_data_sets(oml_home, record_property):
    pytest.importorskip("pandas", reason="mock data sets need requirements/oml.txt")
    from compat.oml.const import MOCK_DATASET_PATH
    from compat.oml.datasets import AudioQueryGalleryLabeledDataset
    from compat.oml.utils import get_mock_audios_dataset, get_mock_images_dataset, get_mock_texts_dataset
    from compat.oml.utils.download_mock_dataset import download_mock_dataset

    assert (MOCK_DATASET_PATH / "images" / "circle_1.jpg").is_file()
    for name in ("df.csv", "df_with_category.csv", "df_with_sequence.csv", "df_with_bboxes.csv"):
        train, validation = get_mock_images_dataset(df_name=name, global_paths=True)
        assert len(train) == len(validation) == 16
        assert (set(train["label"]), set(validation["label"])) == ({0, 1, 2, 3}, {4, 5, 6, 7})
        assert all(Path(path).is_file() for path in train["path"])
    train, validation = download_mock_dataset(oml_home / "other")
    assert (oml_home / "other" / train["path"][0]).is_file()
    train, validation = get_mock_texts_dataset()
    assert len(train) + len(validation) == 35 and validation["is_query"].dtype == bool
    record_property("texts made", len(train) + len(validation))
    record_property("images drawn", len(list((MOCK_DATASET_PATH / "images").glob("*.jpg"))))
    sounds = get_mock_audios_dataset(global_paths=True)
    assert [sorted(set(table["label"])) for table in sounds] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    data = AudioQueryGalleryLabeledDataset(sounds[1])
    assert data[0]["input_tensors"].shape == (1, 48_000) and len(data) == len(sounds[0]) == 16
    later, _ = get_mock_audios_dataset(df_name="df_with_start_times.csv")
    assert later["start_time"].tolist() == 4 * [0, 0, 0, 0.5]
    record_property("sounds played", len(sounds[0]) + len(data))
    with pytest.raises(InputError, match="df_name is 'df.cvs'.* Did you mean 'df.csv'"):
        get_mock_images_dataset(df_name="df.cvs")


def test_a_table_that_was_filtered_keeps_its_old_index(oml_home):
    pytest.importorskip("pandas", reason="tables are pandas'")
    from compat.oml.datasets import ImageQueryGalleryLabeledDataset, TextQueryGalleryLabeledDataset
    from compat.oml.utils import get_mock_images_dataset, get_mock_texts_dataset

    _, table = get_mock_images_dataset(df_name="df_with_category.csv", global_paths=True)
    some = table[table["category"] == "straight"]
    dataset = ImageQueryGalleryLabeledDataset(some)
    assert len(dataset) == len(some) and dataset[0]["category"] == "straight"
    assert dataset[len(some) - 1]["labels"] == some["label"].iloc[-1]
    # One query alone is a list of one.
    assert ImageQueryGalleryLabeledDataset(table[:4]).get_query_ids().tolist() == [0]
    _, texts = get_mock_texts_dataset()
    later = texts[texts["category"] == "kitchen"]
    words = TextQueryGalleryLabeledDataset(
        later, lambda text, **options: {"input_ids": torch.ones(1, len(text)), "attention_mask": torch.ones(1, 1)}
    )
    assert words[0]["input_tensors"]["input_ids"].shape == (len(later["text"].iloc[0]),)


def test_a_table_is_checked_row_by_row(oml_home, record_property):
    pandas = pytest.importorskip("pandas", reason="tables are pandas'")
    from compat.oml.const import MOCK_DATASET_PATH
    from compat.oml.utils import get_mock_images_dataset, get_mock_texts_dataset
    from compat.oml.utils.dataframe_format import check_retrieval_dataframe_format

    for name in ("df.csv", "df_with_category.csv", "df_with_bboxes.csv"):
        check_retrieval_dataframe_format(MOCK_DATASET_PATH / name, MOCK_DATASET_PATH)
        train, validation = get_mock_images_dataset(df_name=name, global_paths=True)
        check_retrieval_dataframe_format(pandas.concat([train, validation], ignore_index=True))
    for texts in get_mock_texts_dataset():
        check_retrieval_dataframe_format(texts)
    wrong = {
        "table.csv:2: split is 'trian'": ("split", "trian"),
        "table.csv:2: is_query is 'maybe'": ("is_query", "maybe"),
        "table.csv:2: the gallery has no item of the query's label 99": ("label", 99),
        "table.csv:2: no image .*gone.jpg": ("path", "gone.jpg"),
        "table.csv:2: box .* is not left < right": ("x_1", 64),
    }
    _, validation = get_mock_images_dataset(df_name="df_with_bboxes.csv", global_paths=True)
    for sentence, (column, value) in wrong.items():
        table = validation.astype(object) if column == "is_query" else validation.copy()
        table.loc[0, column] = value
        with pytest.raises(AssertionError, match=sentence):
            check_retrieval_dataframe_format(table)
    train.loc[0, "is_query"] = True
    with pytest.raises(AssertionError, match="a row to train with"):
        check_retrieval_dataframe_format(train)
    with pytest.raises(AssertionError, match="no column label"):
        check_retrieval_dataframe_format(validation.drop(columns="label"))
    record_property("faults of a table said by their line", len(wrong) + 2)
