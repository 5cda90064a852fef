"""Networks of transformers with a tower for images and one for texts, CLIP and SigLIP: words find images."""

import json
import os
import shutil

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's package

import numpy as np
import pytest
import torch
from runs import read_json, run, train_flags

from core.errors import InputError
from models import BACKBONES, Embedder, ModelSettings, with_text_tower
from models.backbones import submodules_or_parameters

COMMON = ["--num_workers=0", "--use_gpu=False", "--batch_size=8"]
WORDS = ["a red disc", "blue square seen from afar"]
KNOWN = ("a", "red", "blue", "disc", "square", "seen", "from", "afar", "close")
MARKS = ("<pad>", "<s>", "<unk>", "</s>")
TOWER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
IMAGES = {**TOWER, "image_size": 32, "patch_size": 16}


def write_tokenizer(folder, transformers):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: number for number, word in enumerate((*MARKS, *KNOWN))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])]
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    marks = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **marks).save_pretrained(folder)


@pytest.fixture(scope="module", params=["clip", "siglip"])
def pair(request, tmp_path_factory):
    """(folder of a network with random weights, the network of transformers itself)."""
    transformers = pytest.importorskip("transformers", reason="requirements/models.txt is not installed")
    folder = tmp_path_factory.mktemp("hf") / request.param
    ids = {"vocab_size": len(MARKS) + len(KNOWN), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3}
    text = {**TOWER, **ids, "max_position_embeddings": 10}
    if request.param == "clip":
        config = transformers.CLIPConfig(text_config=text, vision_config=IMAGES, projection_dim=8)
        processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    else:
        config = transformers.SiglipConfig(text_config=text, vision_config=IMAGES)
        processor = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
    torch.manual_seed(0)
    net = transformers.AutoModel.from_config(config).eval()
    net.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_tokenizer(folder, transformers)
    return folder, net


def their_texts(folder, net, words):
    """Of transformers alone, as its model cards have it: SigLIP takes texts of one length."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if net.config.model_type == "siglip":
        inputs = {"input_ids": tokenizer(words, padding="max_length", max_length=10, return_tensors="pt")["input_ids"]}
    else:
        inputs = tokenizer(words, padding=True, return_tensors="pt")
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        return net.get_text_features(**inputs).pooler_output


def matrix_of(file):
    return torch.from_numpy(np.load(file)["embeddings"])


def test_both_towers_are_those_of_transformers(pair):
    folder, net = pair
    images, texts = (Embedder(f"{prefix}:{folder}", weights="published").eval() for prefix in ("hf", "hf_text"))
    assert images.embedding_size == texts.embedding_size == (8 if net.config.model_type == "clip" else 16)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        expected = net.get_image_features(pixel_values=(pixels.float() - images.mean) / images.std).pooler_output
        assert torch.equal(images(pixels), expected)
        row = BACKBONES[f"hf_text:{folder}"](f"hf_text:{folder}")
        numbers = [row.preprocess.open_tokenizer()(words) for words in WORDS]
        longest = max(map(len, numbers))
        batch = torch.tensor([[*own, *[-1] * (longest - len(own))] for own in numbers])
        torch.testing.assert_close(texts(batch), their_texts(folder, net, WORDS))
    # Every weight of the tower is at one depth, and nothing of images is left.
    staged = []
    for names in row.stages:
        for part in submodules_or_parameters(texts.backbone, names):
            staged += [part] if isinstance(part, torch.nn.Parameter) else list(part.parameters())
    assert len(staged) == len(list(texts.backbone.parameters())) and len(row.stages) == 4
    assert not [name for name, _ in texts.named_parameters() if "vis" in name or "logit" in name]
    texts.train()(batch).square().sum().backward()
    assert not [name for name, parameter in texts.named_parameters() if parameter.grad is None]


def test_words_find_in_an_index_of_images(pair, sop_tree, tmp_path):
    folder, net = pair
    index = tmp_path / "images.index"
    run(
        "search",
        ["build", index, f"--model=hf:{folder}", f"--pretrained_model={folder}", *COMMON, f"--input={sop_tree}"],
    )
    hits = tmp_path / "hits.json"
    said = run("search", ["find", index, "--text", *WORDS, "--k=3", *COMMON, "--output", hits])
    assert "may have moved images away" not in said
    first, second = json.loads(hits.read_text())
    assert first["query"] == f"text:{WORDS[0]}" and second["hits"][0]["path"].endswith(".jpg")
    run("infer", [f"--pretrained_model={folder}", *COMMON, f"--input={sop_tree}", f"--output={tmp_path / 'i.npz'}"])
    texts = torch.nn.functional.normalize(their_texts(folder, net, WORDS))
    cosines = torch.nn.functional.normalize(matrix_of(tmp_path / "i.npz")) @ texts.T
    np.testing.assert_allclose(first["hits"][0]["score"], cosines[:, 0].max(), atol=1e-5)
    np.testing.assert_allclose(second["hits"][0]["score"], cosines[:, 1].max(), atol=1e-5)


def test_both_towers_learn_from_pairs(pair, tiny, sop_tree, tmp_path):
    folder, _ = pair
    lines = ["label,text,path,split"]
    for name, split in (("Ebay_train.txt", "train"), ("Ebay_test.txt", "validation")):
        for line in (sop_tree / name).read_text().splitlines()[1:]:
            _, label, _, path = line.split()
            lines.append(f"{label},a {KNOWN[int(label) % 8]} disc,{path},{split}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    lists = {"train_list": tmp_path / "pairs.csv", "test_list": tmp_path / "pairs.csv"}
    flags = {"model": None, "pretrained_model": folder, "image_shape": None, "loss_name": "clip", "augment": "none"}
    output = tmp_path / "run"
    run("train_pair", train_flags(sop_tree, output, **{**lists, **flags, "optimiser": "adamw", "lr": 0.01}))
    assert read_json(output / "result.json")["step"] == 3
    state = torch.load(output / "last.pt", weights_only=True)["model"]
    for modality, prefix in (("image", "hf"), ("text", "hf_text")):
        before = Embedder(f"{prefix}:{folder}", weights="published").state_dict()
        moved = [name for name, value in before.items() if not torch.equal(value, state[f"towers.{modality}.{name}"])]
        assert len(moved) > 0.8 * len(before)
    build = ["build", tmp_path / "i", f"--pretrained_model={output}", *COMMON, f"--input={sop_tree / 'Ebay_test.txt'}"]
    run("search", [*build, f"--data_dir={sop_tree}"])
    assert "text:a red disc" in run("search", ["find", tmp_path / "i", "--text", "a red disc", "--k=2", *COMMON])


def test_what_has_no_network_for_texts(pair, tmp_path):
    folder, net = pair
    transformers = pytest.importorskip("transformers")
    transformers.AutoModel.from_config(net.config.vision_config).save_pretrained(tmp_path / "images")
    with pytest.raises(InputError, match="has no network for texts beside one for images"):
        Embedder(f"hf_text:{tmp_path / 'images'}")
    assert with_text_tower(ModelSettings(model=f"hf:{tmp_path / 'images'}", pretrained_model="published")) is None
    shutil.copytree(folder, tmp_path / "mute", ignore=shutil.ignore_patterns("token*", "special*"))
    with pytest.raises(InputError, match=r"mute' has no tokenizer|mute' has no tokenizer that can be read"):
        run("infer", [f"--pretrained_model={tmp_path / 'mute'}", "--text", "a disc", *COMMON])
