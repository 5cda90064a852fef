"""EasyDL's names: its models and their arguments as its page prints them, images, figures, trainers."""

import base64
import csv
import io
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image

from compat.easydl import common_trainer
from compat.easydl.clustering.metrics import calculate_clustering_metrics_all_in_one
from compat.easydl.common_infer import (
    infer_x_dataset_with_image_tensor_to_embedding_tensor_model,
    infer_x_dataset_with_simple_stacking,
)
from compat.easydl.config import CommonCallbackConfig
from compat.easydl.data import GenericLambdaDataset, GenericPytorchDataset, GenericXYLambdaAutoLabelEncoderDataset
from compat.easydl.dml import evaluation, trainer
from compat.easydl.dml.infer import images_to_embeddings
from compat.easydl.dml.loss import ArcFace, ArcFaceLoss, ProxyAnchorLoss
from compat.easydl.dml.pytorch_models import (
    DMLModelManager,
    EfficientNetMetricModel,
    Resnet18MetricModel,
    Resnet50MetricModel,
    VitMetricModel,
    network_name,
)
from compat.easydl.dml.simulation import generate_2d_gaussian_points
from compat.easydl.image import (
    COMMON_IMAGE_PREPROCESSING_FOR_TESTING,
    Base64ImageError,
    FileImageError,
    ImageLoadError,
    S3ImageError,
    SmartImageReader,
    smart_image_to_base64,
    smart_read_and_crop_image_by_box,
    smart_read_image,
)
from core.errors import InputError
from data.image.files import read_image
from losses import LOSSES


def small_network(name):
    """A network of torchvision that is quickly made."""
    if name == "vit_b_16":
        return torchvision.models.VisionTransformer(
            image_size=224, patch_size=16, num_layers=1, num_heads=2, hidden_dim=768, mlp_dim=64
        )
    return torchvision.models.get_model(name)


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """Weights that nobody downloads; the list of which were asked for."""
    names = []

    def build(name, row, weights):
        names.append((name, weights))
        return small_network(name)

    monkeypatch.setattr("models.backbones.torchvision._build", build)
    return names


@pytest.fixture
def cat(tmp_path):
    rng = np.random.default_rng(0)
    file = tmp_path / "cat.jpg"
    Image.fromarray(rng.integers(0, 255, (240, 320, 3), dtype=np.uint8)).resize((300, 280)).save(file)
    return file


def test_models_take_the_arguments_that_are_printed(asked, record_property):
    models = [
        Resnet18MetricModel(embedding_dim=128),
        Resnet50MetricModel(embedding_dim=128),
        VitMetricModel(embedding_dim=128, vit_model_name="vit_b_16", weights="IMAGENET1K_V1"),
        EfficientNetMetricModel(embedding_dim=128, efficient_model_name="efficientnet_b0"),
        DMLModelManager.get_model("resnet18", embedding_dim=128),
        DMLModelManager.get_model("resnet50", embedding_dim=256),
        DMLModelManager.get_model("vit_b_16", embedding_dim=128),
        DMLModelManager.get_model("EfficientNet_B0", embedding_dim=128, weights=None),
    ]
    assert asked == [
        ("resnet18", "imagenet"),
        ("resnet50", "imagenet"),
        ("vit_b_16", "imagenet"),
        ("efficientnet_b0", "imagenet"),
        ("resnet18", "imagenet"),
        ("resnet50", "imagenet"),
        ("vit_b_16", "imagenet"),
        ("efficientnet_b0", None),
    ]
    for model in models:
        side = 224 if isinstance(model, VitMetricModel) else 64
        with torch.no_grad():
            embeddings = model.eval()(torch.randn(2, 3, side, side))
        assert embeddings.shape == (2, model.get_embedding_dim())
        assert torch.allclose(embeddings.norm(dim=1), torch.ones(2), atol=1e-5)
        record_property("networks", 1)
        record_property("largest distance of a length from 1", (embeddings.norm(dim=1) - 1).abs().max().item())
    # As EasyDL's own code calls them, too.
    assert VitMetricModel("ViT_B_16", 64, "IMAGENET1K_V1").embedding.out_features == 64
    assert EfficientNetMetricModel("EfficientNet_B0", 64, None).embedding.out_features == 64


def test_every_name_of_a_model_means_one_of_ours(record_property):
    names = {f"efficientnet_b{number}" for number in range(8)} | {f"vit_{word}" for word in ("b_16", "b_32", "h_14")}
    assert {network_name(name) for name in names} == (
        {f"EfficientNetB{number}" for number in range(8)} | {"ViT-B-16", "ViT-B-32", "ViT-H-14"}
    )
    record_property("names", len(names) + 2)
    assert network_name("VIT_L_32") == "ViT-L-32" and network_name("resnet101") == "ResNet101"
    with pytest.raises(ValueError, match="unknown model 'vit_b_17'; there are: .*vit_b_16.*Did you mean 'vit_b_16'"):
        DMLModelManager.get_model("vit_b_17", 8)
    with pytest.raises(InputError, match="unknown model 'resnet18'; there are: vit_b_16"):
        VitMetricModel("resnet18")
    with pytest.raises(InputError, match="weights is 'IMAGENET1K_V2'; ResNet50 has IMAGENET1K_V1 .or imagenet"):
        Resnet50MetricModel(8, weights="IMAGENET1K_V2")


def test_a_picture_goes_both_roads(cat, record_property):
    """By the transform and the network, and by `embed_image`, which takes a path or an image and leaves the mode."""
    model = Resnet18MetricModel(embedding_dim=16)
    image = smart_read_image(str(cat))
    tensor = COMMON_IMAGE_PREPROCESSING_FOR_TESTING(image)
    model.train()
    embedding = model.embed_image(Image.open(cat))
    assert model.training and embedding.shape == (16,) and embedding.dtype == np.float32
    with torch.no_grad():
        by_hand = model.eval()(tensor.unsqueeze(0))
        by_transform = model(model.image_transform(image).unsqueeze(0))
    np.testing.assert_allclose(by_transform[0].numpy(), embedding, atol=1e-5)
    record_property("largest difference", np.abs(by_transform[0].numpy() - embedding).max())
    # Resized as floats in one, as bytes in the other.
    cosine = float(by_hand[0] @ torch.from_numpy(embedding))
    assert cosine > 0.99
    record_property("least cosine", f"{cosine:.6f}")
    embeddings = model.embed_images([Image.open(cat), str(cat), cat])
    assert embeddings.shape == (3, 16)
    np.testing.assert_allclose(embeddings, embedding[None].repeat(3, 0), atol=1e-5)
    np.testing.assert_allclose(Resnet18MetricModel.create_image2vector_wrapper(8)(str(cat)).shape, (8,))


def test_one_image_is_no_batch_and_losses_are_asked_for_first(asked):
    model = Resnet18MetricModel(8, weights=None)
    with pytest.raises(InputError, match=r"shape \(3, 64, 64\); a batch is .* x.unsqueeze\(0\)"):
        model(torch.zeros(3, 64, 64))
    asked.clear()
    with pytest.raises(InputError, match="unknown loss 'arcface'; .* Did you mean 'arcface_loss'"):
        trainer.DeepMetricLearningImageTrainverV971(None, 2, loss_name="arcface")
    assert asked == []


def test_features_between(cat):
    model = Resnet18MetricModel(embedding_dim=128).eval()
    with torch.no_grad():
        embedding = model(COMMON_IMAGE_PREPROCESSING_FOR_TESTING(smart_read_image(str(cat))).unsqueeze(0))
    features = model.get_features()
    assert {name: tuple(value.shape) for name, value in features.items()} == {
        "pre_pooling": (1, 512, 7, 7),
        "post_pooling": (1, 512, 1, 1),
        "embedding": (1, 128),
    }
    torch.testing.assert_close(features["embedding"], embedding)
    torch.testing.assert_close(features["post_pooling"], features["pre_pooling"].mean((2, 3), keepdim=True))
    torch.testing.assert_close(model.get_features(torch.zeros(2, 3, 224, 224))["embedding"].shape, torch.Size([2, 128]))
    assert model.get_features_from_image(str(cat))["pre_pooling"].shape == (1, 512, 7, 7)


@pytest.mark.parametrize("name, layer", [("resnet18", "fc"), ("efficientnet_b0", "classifier"), ("vit_b_16", "heads")])
def test_files_of_easydl_are_read(tmp_path, name, layer):
    """A network built as it builds them, torchvision's with a layer in place of the classifier, and `module.` of it."""
    torch.manual_seed(0)
    net = small_network(name).eval()
    side = 224 if name == "vit_b_16" else 64
    state = {}
    if name == "resnet18":
        head = torch.nn.Linear(512, 8)
        net.fc = torch.nn.Identity()
        state = {f"embedding.{key}": value for key, value in head.state_dict().items()}
    elif name == "efficientnet_b0":
        head = torch.nn.Identity()
        net.classifier = torch.nn.Linear(1280, 8)
    else:
        head = torch.nn.Identity()
        net.heads.head = torch.nn.Linear(768, 8)
    state |= {f"backbone.{key}": value for key, value in net.state_dict().items()}
    for prefix in ("", "module."):
        torch.save({prefix + key: value for key, value in state.items()}, tmp_path / "model_epoch_001.pth")
        model = DMLModelManager.get_model(name, 8, weights=None)
        model.load_weights(tmp_path / "model_epoch_001.pth")
        images = torch.randn(2, 3, side, side)
        with torch.no_grad():
            torch.testing.assert_close(model.eval()(images), F.normalize(head(net(images))), atol=1e-5, rtol=1e-4)
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({})


@pytest.mark.slow
def test_a_network_of_huggingface(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers", reason="HFVitModel needs requirements/models.txt")
    from compat.easydl.dml.hf_models import HFVitModel

    monkeypatch.chdir(tmp_path)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=64, patch_size=16
    )
    net = transformers.ViTModel(config).eval()
    net.save_pretrained("google/vit-tiny")
    model = HFVitModel(model_name="google/vit-tiny").eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = F.normalize(net(pixel_values=images).last_hidden_state[:, 0])
        torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(model({"pixel_values": images}), expected, atol=1e-5, rtol=1e-4)
    assert model.embed_images([np.zeros((80, 90, 3), np.uint8)] * 3).shape == (3, 32)


def test_images_come_from_whatever_names_them(cat, monkeypatch, record_property):
    pixels = read_image(cat)
    content = base64.b64encode(cat.read_bytes()).decode()
    for source in (str(cat), f"file://{cat}", f"base64://{content}", Image.open(cat), pixels):
        image = smart_read_image(source)
        assert image.mode == "RGB" and np.array_equal(np.asarray(image), pixels)
        record_property("sources with the same pixels", 1)
    assert SmartImageReader()(str(cat)).size == image.size
    text = smart_image_to_base64(str(cat))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))), pixels)
    assert np.array_equal(np.asarray(smart_read_and_crop_image_by_box(str(cat), (3, 4, 13, 24))), pixels[4:24, 3:13])
    assert smart_read_and_crop_image_by_box(str(cat), (13, 4, 3, 24)).size == (0, 20)
    for source, kind, words in (
        ("/nowhere/cat.jpg", FileImageError, "Failed to access file: .*cat.jpg"),
        ("base64://no base64", Base64ImageError, "Invalid base64 encoding"),
        ("s3://bucket-only", S3ImageError, "Invalid S3 path format: s3://bucket-only"),
    ):
        with pytest.raises(kind, match=words):
            smart_read_image(source)
    with pytest.raises(ValueError, match="not a int"):
        smart_read_image(123)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(ImageLoadError, match="Failed after 3 attempts. Last error: Failed to access file"):
        smart_read_image("/nowhere/cat.jpg", auto_retry=3)


def test_losses_under_other_names():
    torch.manual_seed(0)
    rows, labels = torch.randn(6, 8), torch.tensor([0, 1, 2, 0, 3, 3])
    scores = ArcFace(8, 4, s=32.0, m=0.3)
    whole = ArcFaceLoss(8, 4, s=32.0, m=0.3)
    whole.arcface.load_state_dict(scores.arcface.state_dict())
    torch.testing.assert_close(F.cross_entropy(scores(rows, labels), labels), whole(rows, labels), rtol=1e-4, atol=1e-4)
    cosines = F.normalize(rows) @ F.normalize(scores.weight).T
    others = ~F.one_hot(labels, 4).bool()
    torch.testing.assert_close(scores(rows, labels)[others], 32 * cosines[others])
    anchor = ProxyAnchorLoss(num_classes=4, embedding_dim=8)
    ours = LOSSES["proxy_anchor"](8, 4, alpha=32.0, margin=0.1)
    ours.load_state_dict(anchor.loss.state_dict())
    assert anchor(rows, labels) == ours(rows, labels) and anchor.proxies.shape == (4, 8)


def test_figures_of_a_data_frame(record_property):
    """By a loop over all pairs; of four equal rows none is its own neighbour."""
    pandas = pytest.importorskip("pandas", reason="data frames need pandas")
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(30, 4)), rng.integers(0, 6, 30)
    labels[0] = 99
    result = evaluation.evaluate_embedding_top1_accuracy_ignore_self(
        pandas.DataFrame({"embedding": list(rows), "label": labels})
    )
    nearest = []
    for i in range(30):
        distances = [math.dist(rows[i], rows[j]) if i != j else math.inf for j in range(30)]
        nearest.append(int(np.argmin(distances)))
    frame = result["result_dataframe"]
    assert frame["top1_index"].tolist() == nearest
    assert result["avg_top1_accuracy"] == np.mean(labels[nearest] == labels)
    record_property("top-1 here and by the loop", f"{result['avg_top1_accuracy']:.5f}")
    assert result["accuracy_upper_bound"] == np.mean([(labels == label).sum() > 1 for label in labels])
    assert frame["top1_distance"].iloc[3] == pytest.approx(math.dist(rows[3], rows[nearest[3]]), rel=1e-5)
    same = evaluation.evaluate_embedding_top1_accuracy_ignore_self(
        pandas.DataFrame({"embedding": [[1.0, 0.0]] * 4, "label": [0, 0, 1, 1]})
    )["result_dataframe"]["top1_index"].tolist()
    assert all(neighbour != row for row, neighbour in enumerate(same))
    clusters = pandas.DataFrame({"cluster_id": [1, 1, 1, 1, 2, 2, 3, 3], "label": list("AAABACBB")})
    major = evaluation.evaluate_major_cluster_precision_recall(clusters)
    assert (major["major_cluster_id"], major["major_cluster_label"]) == (1, "A")
    assert (major["tp"], major["fp"], major["fn"], major["precision"], major["recall"]) == (3, 1, 1, 0.75, 0.75)
    with pytest.raises(InputError, match="no column 'embedding'; it has: label"):
        evaluation.evaluate_embedding_top1_accuracy_ignore_self(pandas.DataFrame({"label": [1, 2]}))


def test_figures_of_clusters(record_property):
    pandas = pytest.importorskip("pandas", reason="data frames need pandas")
    pytest.importorskip("sklearn", reason="clusters need requirements/verification.txt")
    rng = np.random.default_rng(0)
    centres = np.eye(3).repeat(5, 0)
    frame = pandas.DataFrame({"embedding": list(centres + rng.normal(0, 0.01, centres.shape)), "label": [0, 1, 2] * 5})
    frame["label"] = np.arange(3).repeat(5)
    figures = evaluation.EmbeddingEvaluationAgglomerativeClustering.evaluate_given_threshold(frame)
    assert figures["number_of_clusters"] == figures["number_of_labels"] == 3
    for name in ("rand", "adjusted_mutual_info", "homogeneity", "completeness", "v_measure", "fowlkes_mallows"):
        assert figures[f"{name}_score"] == pytest.approx(1.0)
        record_property("least score of clusters", figures[f"{name}_score"])
    assert figures["davies_bouldin_score"] < 0.1 < figures["calinski_harabasz_score"]
    frame["cluster_label"] = 0
    one = calculate_clustering_metrics_all_in_one(frame, save_input_df_clustered=False)
    assert one["df_clustered"] is None and math.isnan(one["davies_bouldin_score"])


def test_points_of_a_plane():
    points = generate_2d_gaussian_points(2000, [1, 2], [0.5, 1.0], random_seed=3)
    assert points.shape == (2000, 2)
    np.testing.assert_allclose(points.mean(0), [1, 2], atol=0.1)
    np.testing.assert_allclose(np.cov(points.T), [[0.5, 0], [0, 1]], atol=0.1)
    np.testing.assert_array_equal(points, generate_2d_gaussian_points(2000, [1, 2], [0.5, 1.0], random_seed=3))
    assert generate_2d_gaussian_points(5, [0, 0], 1.0).shape == (5, 2)
    with pytest.raises(InputError, match="mean has 3 numbers"):
        generate_2d_gaussian_points(5, [0, 0, 0], 1.0)


def test_data_sets():
    data = GenericLambdaDataset({"x": lambda i: i, "y": lambda i: 10 * i}, 4)
    # Every key keeps its own function, not the last one's.
    data.extend_lambda_dict({"x": lambda value: value + 1, "y": lambda value: value + 2})
    assert [data[i] for i in (0, 3)] == [{"x": 1, "y": 2}, {"x": 4, "y": 32}]
    with pytest.raises(IndexError):
        data[4]
    with pytest.raises(RuntimeError, match="item 0, 'x': division"):
        GenericLambdaDataset({"x": lambda i: 1 / i}, 2)[0]
    labelled = GenericXYLambdaAutoLabelEncoderDataset(lambda i: i, ["b", "a", "b"].__getitem__, 3)
    assert labelled.get_y_list_with_encoded_labels() == [1, 0, 1] and labelled.get_number_of_classes() == 2
    assert labelled[2] == {"x": 2, "y": 1} and labelled.get_original_y_from_index(1) == "a"
    pandas = pytest.importorskip("pandas", reason="data frames need pandas")
    rows = GenericPytorchDataset(pandas.DataFrame({"x": [1, 2], "y": [3, 4]}), {"x": lambda value: -value})
    assert {key: value.item() for key, value in rows[1].items()} == {"x": -2, "y": 4}


def shapes(count=12):
    """Three labels of normalised noise around a colour each, and the labels."""
    torch.manual_seed(0)
    labels = torch.arange(count) % 3
    return F.one_hot(labels, 3)[:, :, None, None] * 2.0 + 0.3 * torch.randn(count, 3, 32, 32), labels


def test_a_trainer_learns_and_writes_a_file_an_epoch(tmp_path, monkeypatch, record_property):
    monkeypatch.setattr(CommonCallbackConfig, "save_model_dir", str(tmp_path / "files"))
    images, labels = shapes()
    data = GenericXYLambdaAutoLabelEncoderDataset(images.__getitem__, labels.tolist().__getitem__, len(labels))
    trained = trainer.DeepMetricLearningImageTrainverV971(
        data, num_classes=3, model_name="resnet18", loss_name="proxy_anchor_loss", embedding_dim=8, batch_size=6,
        num_epochs=3, lr=1e-3, weights=None,
    )  # fmt: skip
    files = sorted(path.name for path in (tmp_path / "files").iterdir())
    assert files == ["model_epoch_001.pth", "model_epoch_002.pth", "model_epoch_003.pth"]
    report = evaluation.DeepMetricLearningImageEvaluatorOnEachEpoch(
        data, "resnet18", 8, tmp_path / "files", 4, tmp_path / "report"
    )
    with open(report.report_csv_path) as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["top1_accuracy"]) == 1.0
    record_property("top-1 of the epochs", ", ".join(row["top1_accuracy"] for row in rows))
    figures = evaluation.StandardEmbeddingEvaluationV1.evaluate_given_dataset(data, trained.model)
    assert figures["top1_accuracy"] == float(rows[-1]["top1_accuracy"])
    embeddings = infer_x_dataset_with_simple_stacking(data, trained.model)
    assert evaluation.standard_embedding_evaluation_v2(embeddings, labels).metrics["pr_auc"] == figures["pr_auc"]


def test_a_data_frame_of_pictures_trains(sop_tree, tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas", reason="data frames need pandas")
    monkeypatch.chdir(tmp_path)
    with open(sop_tree / "shapes.csv") as stream:
        rows = list(csv.DictReader(stream))[:6]
    frame = pandas.DataFrame({"x": [str(sop_tree / row["path"]) for row in rows], "y": [row["label"] for row in rows]})
    model = trainer.train_deep_metric_learning_image_model_ver777(
        "resnet18", frame, "arcface_loss", embedding_dim=4, batch_size=3, device="cpu", num_epochs=1
    )
    saved = torch.load("model_epoch_001.pth", weights_only=True)
    assert saved.keys() == model.state_dict().keys()
    paths = GenericXYLambdaAutoLabelEncoderDataset.from_df(frame)
    embeddings = infer_x_dataset_with_image_tensor_to_embedding_tensor_model(paths, model)
    np.testing.assert_allclose(embeddings, model.embed_images(frame["x"]), atol=1e-5)
    assert paths[0]["x"] == frame["x"][0]
    with pytest.raises(InputError, match="unknown loss 'arcface'; .*Did you mean 'arcface_loss'"):
        trainer.train_deep_metric_learning_image_model_ver777(train_df=frame, loss_name="arcface", num_epochs=1)
    with pytest.raises(InputError, match="train_df is missing"):
        trainer.train_deep_metric_learning_image_model_ver777()


def test_the_loop_takes_the_steps_of_adam():
    """Two epochs of a linear layer, beside torch's own loop, and the mean loss that each epoch is told."""
    images, labels = shapes(12)
    batches = [{"x": images[rows].flatten(1), "y": labels[rows]} for rows in torch.arange(12).split(4)]
    torch.manual_seed(1)
    ours, theirs = torch.nn.Linear(3072, 3), torch.nn.Linear(3072, 3)
    theirs.load_state_dict(ours.state_dict())
    told = []
    common_trainer.train_xy_model_for_epochs(
        ours, batches, torch.optim.Adam(ours.parameters(), 1e-2), torch.nn.CrossEntropyLoss(), "cpu", 2, told.append
    )
    optimiser = torch.optim.Adam(theirs.parameters(), 1e-2)
    means = []
    for _ in range(2):
        losses = []
        for batch in batches:
            loss = F.cross_entropy(theirs(batch["x"]), batch["y"])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        means.append(np.mean(losses))
    torch.testing.assert_close(ours.weight, theirs.weight)
    assert [state["avg_loss"] for state in told] == pytest.approx(means) and [s["epoch"] for s in told] == [1, 2]


def test_a_reader_of_images_may_be_given():
    assert images_to_embeddings([1, 2], lambda image: np.array([image, 0.5]), lambda image: 2 * image).tolist() == [
        [2, 0.5],
        [4, 0.5],
    ]
    assert images_to_embeddings([], len, image_reader=len).shape == (0,)
