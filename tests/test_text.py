"""Texts from a list to an embedding: lists, tokens, padding, the scripts as a user runs them, what cannot be."""

import json
import os
import zlib

import numpy as np
import pytest
import torch
from reports import data_of
from runs import read_json, run, train_flags
from tolerances import gamma, sensitivity

from core.errors import InputError
from data.build_stamps import main as build_stamps
from data.build_stamps import read_stamps
from data.formats.csv import parse_csv
from data.formats.problems import Problems
from data.lists import open_list, read_list
from data.text.modality import PADDING, TextModality
from data.text.picture import INK, SIDE, draw_text_picture
from models import Embedder
from models.backbones import BACKBONES
from models.backbones.hashed_ngrams import BUCKETS, MOST_TOKENS, NgramTokenizer, ngrams_of_word
from models.pooling import PaddedPooling

COLOURS = ("red", "green", "blue", "black")
THINGS = ("cat", "dog", "car", "tree", "boat", "bird", "shoe", "book")
POOLINGS = ("avg", "mean", "max", "gem", "avg+max", "attention", "cls")


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """A csv of 8 labels with 4 texts each, half of them to train with."""
    file = tmp_path_factory.mktemp("texts") / "things.csv"
    rows = ["label,text,split,is_query,is_gallery"]
    for number, thing in enumerate(THINGS):
        split = "train,," if number < len(THINGS) // 2 else "validation,True,True"
        rows += [f'{thing},"a {colour} {thing}, on the ""table""",{split}' for colour in COLOURS]
    file.write_text("\n".join(rows) + "\n")
    return file


def text_flags(texts, folder, **flags):
    lists = {"data_dir": None, "train_list": texts, "test_list": texts}
    return train_flags(None, folder, **{**lists, "model": "HashedNgrams", "image_shape": None, **flags})


@pytest.fixture(scope="module")
def text_run(texts, tmp_path_factory):
    """The folder of a run of three steps. Read only."""
    folder = tmp_path_factory.mktemp("run") / "words"
    run("train_pair", text_flags(texts, folder, loss_name="triplet", report=True))
    return folder


# Lists.


def test_texts_stand_where_paths_do(texts):
    records = open_list(texts, None, "train")
    assert records.paths[0] == 'text:a red cat, on the "table"' and len(records) == 16 and records.noun == "text"
    assert records.name_of(0) == """text 'a red cat, on the "table"'"""
    assert records.labels[:4].tolist() == ["cat"] * 4


def faults_of(tmp_path, *rows):
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    _, sentences = read_list(tmp_path / "list.csv", None, "train")
    return [sentence.partition("list.csv:")[2] for sentence in sentences]


def test_what_is_wrong_with_texts_is_said_by_line(tmp_path):
    long = "w" * 20_001
    rows = ["label,text,split", "1,a cat,train", "1,  ,train", f"2,{long},train", "2,a\0b,train", "3,only,trian"]
    assert faults_of(tmp_path, *rows) == [
        "3: text is empty",
        f"4: the text {repr(long)[:100]}... has 20,001 characters, more than 20,000",
        "5: the text 'a\\x00b' has a NUL character",
        "6: split is 'trian', expected train or validation",
    ]
    assert faults_of(tmp_path, "label,texts,split", "1,a,train") == [
        "1: no column 'path' in ['label', 'texts', 'split'].",
        "1: the column 'texts' is not known; if 'text' is meant, rename it",
    ]
    assert faults_of(tmp_path, "label,text,path,split", "1,,,train") == ["2: both text and path are empty"]


def test_a_row_with_a_path_is_its_file(tmp_path):
    (tmp_path / "list.csv").write_text("label,text,path,split\n1,a cat,cat.jpg,train\n1,a cat,,train\n")
    problems = Problems()
    columns = parse_csv(tmp_path / "list.csv", "train", problems)
    assert columns["paths"] == ["cat.jpg", "text:a cat"] and not problems
    assert problems.notes_of("list.csv") == ["list.csv: of a row that has a path, the text is not used"]


def test_a_text_that_comes_twice(tmp_path):
    rows = ["label,text,split", "1,a cat,validation", "1,a cat,validation", "2,a dog,validation"]
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    records = open_list(tmp_path / "list.csv", None, "test")
    assert len(records) == 2
    assert records.notes[0].endswith("1 row (line 3) names a text that a row before names, too; each text counts once")
    (tmp_path / "list.csv").write_text("\n".join([*rows, "2,a cat,validation"]) + "\n")
    with pytest.raises(InputError, match="the text 'a cat' has the label 2, but 1 by line 2"):
        open_list(tmp_path / "list.csv", None, "test")


# Tokens, and their padding.


def test_ngrams_by_hand():
    pieces = ["<ab>", "<ab", "ab>"]
    assert list(ngrams_of_word("ab")) == [zlib.crc32(piece.encode()) % BUCKETS for piece in pieces]
    tokenizer = NgramTokenizer()
    assert tokenizer("AB ﬁ") == [*ngrams_of_word("ab"), *ngrams_of_word("fi")]  # NFKC takes the ligature apart
    assert tokenizer(" \u00ad ".strip() or " ") and len(tokenizer("word " * 1000)) == MOST_TOKENS


def test_batches_are_padded_behind_the_end(texts):
    records = open_list(texts, None, "train")
    modality = TextModality(NgramTokenizer())
    rows = [modality.augment(modality.load(records, row), seed) for row, seed in ((0, 1), (4, 2))]
    assert torch.equal(rows[0], modality.augment(modality.load(records, 0), 9)), "nothing is random"
    shorter = rows[0][:5]
    batch = modality.collate([shorter, rows[1]])
    assert batch.dtype == torch.int64 and batch.shape == (2, len(rows[1]))
    assert torch.equal(batch[0, :5], shorter) and (batch[0, 5:] == PADDING).all()


@pytest.mark.parametrize("kind", POOLINGS)
def test_pooling_leaves_padding_out(kind):
    torch.manual_seed(0)
    tokens = torch.rand(3, 6, 4, dtype=torch.float64) + 0.1
    lengths = (6, 1, 4)
    pooling = PaddedPooling(kind, width=4).double()
    if kind == "attention":
        torch.nn.init.normal_(pooling.query)
    pooled = pooling(tokens, torch.arange(6) < torch.tensor(lengths)[:, None])
    for row, length in enumerate(lengths):
        alone = pooling(tokens[row : row + 1, :length], torch.ones(1, length, dtype=torch.bool))[0]
        # Sums of six numbers of one size; a power of them is thrice as sensitive.
        assert (pooled[row] - alone).abs().max() <= 3 * gamma(20) * alone.abs().max()
    by_hand = {"cls": tokens[2, 0], "max": tokens[2, :4].amax(0), "avg": tokens[2, :4].mean(0)}
    if kind in by_hand:
        torch.testing.assert_close(pooled[2], by_hand[kind])


def assert_padding_changes_nothing(model, texts, tokenizer, most):
    """Embeddings of a batch against those of each text alone; most: terms of the longest sum of a layer."""
    modality = TextModality(tokenizer)
    rows = [modality.augment(text, 0) for text in texts]
    assert len({len(row) for row in rows}) > 2
    model = model.double().eval()
    with torch.no_grad():
        batch = model(modality.collate(rows))
        for number, row in enumerate(rows):
            alone = model(row[None])[0]
            moves = sensitivity(model, lambda row=row: {"embedding": model(row[None])[0]})["embedding"]
            assert ((batch[number] - alone).abs() <= gamma(most) * moves + gamma(most) * alone.abs()).all()


SENTENCES = ("cat", "a red cat", "the green car stands by the old boat", "книга", "本")


def test_padding_changes_no_embedding():
    assert_padding_changes_nothing(Embedder("HashedNgrams", 8), SENTENCES, NgramTokenizer(), 128)


# The scripts.


def test_a_run_of_texts(texts, text_run):
    config = read_json(text_run / "config.json")
    assert config["flags"]["model"] == "HashedNgrams" and config["lists"]["train"]["images"] == 16
    assert 0 <= read_json(text_run / "result.json")["recall"]["1"] <= 1


@pytest.mark.parametrize("script, flags", [("train_pair", {"loss_name": "supcon"}), ("train_elem", {"val_classes": 2})])
def test_three_steps_and_three_more_are_six(texts, tmp_path, script, flags):
    flags = {"lr": 0.05, "lr_strategy": "constant", "train_batch_size": 8, "save_iter_step": 3, **flags}
    if script == "train_elem":
        flags["test_list"] = None
    run(script, text_flags(texts, tmp_path / "six", total_iter_num=6, num_workers=2, **flags))
    run(script, text_flags(texts, tmp_path / "three", total_iter_num=3, **flags))
    line = [f"--checkpoint={tmp_path / 'three'}", "--total_iter_num=6", "--allow_changed=total_iter_num"]
    run(script, line)
    states = [torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("six", "three")]
    for name, tensor in states[0]["model"].items():
        assert torch.equal(tensor, states[1]["model"][name]), name


def test_evaluated_with_texts_in_the_report(texts, text_run, tmp_path):
    page, picture = tmp_path / "page.html", tmp_path / "picture.png"
    files = [f"--report={page}", f"--picture={picture}", f"--save_results={tmp_path / 'found.json'}"]
    said = run("eval", [f"--pretrained_model={text_run}", *files, "--num_workers=0", "--use_gpu=False"])
    assert "16 texts, 16 queries, 16 in the gallery" in said and picture.stat().st_size > 5000
    assert read_json(tmp_path / "found.json")["paths"][0] == 'text:a red boat, on the "table"'
    data = data_of(page)
    assert ["texts", "16"] in data["facts"]
    item = data["items"][0]
    assert item["text"] == item["file"] and item["text"].startswith("a ") and "image" not in item


def test_embedded_found_and_deleted(texts, text_run, tmp_path):
    common = [f"--pretrained_model={text_run}", "--num_workers=0", "--use_gpu=False"]
    said = run("infer", [*common, "--text", "a red cat", "ein Hund", f"--output={tmp_path / 'two.npz'}"])
    assert said.splitlines()[-1].startswith("2 texts, 128 numbers each")
    assert np.load(tmp_path / "two.npz")["paths"].tolist() == ["text:a red cat", "text:ein Hund"]

    index = tmp_path / "things.index"
    assert "32 texts in" in run("search", ["build", index, *common, "--input", texts])
    hits = tmp_path / "hits.json"
    asked = ["--text", 'a black bird, on the "table"', "--k=3", "--num_workers=0", "--use_gpu=False"]
    run("search", ["find", index, *asked, "--output", hits, tmp_path / "hits.png"])
    (answer,) = json.loads(hits.read_text())
    assert answer["query"] == answer["hits"][0]["path"] == 'text:a black bird, on the "table"'
    assert answer["hits"][0]["score"] == pytest.approx(1, abs=1e-4)
    said = run("search", ["delete", index, "--input", answer["query"]])
    assert said.startswith("1 text deleted")
    assert "31" in said


def test_a_list_given_as_features(texts, text_run, tmp_path):
    """A head on embeddings of texts, without the texts' network."""
    common = [f"--pretrained_model={text_run}", "--num_workers=0", "--use_gpu=False"]
    run("infer", [*common, f"--input={texts}", f"--output={tmp_path / 'all.npz'}"])
    line = {"features": tmp_path / "all.npz", "val_classes": 3, "pretrained_model": text_run, "embedding_size": 8}
    flags = {"train_list": None, "test_list": None, "model": None, **line}
    run("train_pair", text_flags(None, tmp_path / "head", loss_name="supcon", train_batch_size=8, **flags))
    said = run("eval", [f"--pretrained_model={tmp_path / 'head'}", f"--test_list={texts}", "--num_workers=0"])
    assert "16 texts" in said


def test_texts_are_drawn():
    few, many = draw_text_picture("a cat"), draw_text_picture("word " * 500)
    assert few.shape == many.shape == (SIDE, SIDE, 3) and few.dtype == np.uint8
    assert (few == INK).all(2).sum() > 100 < (many == INK).all(2).sum()
    assert draw_text_picture("w" * 3000).shape == draw_text_picture("").shape == (SIDE, SIDE, 3)


# What cannot be.


def sentence(script, line):
    with pytest.raises(InputError) as error:
        run(script, line)
    return str(error.value)


def test_lists_of_another_modality(texts, sop_tree, text_run, tmp_path):
    said = sentence("eval", [f"--pretrained_model={text_run}", f"--data_dir={sop_tree}", "--test_list=Ebay_test.txt"])
    assert "Ebay_test.txt:2: image '" in said and said.endswith("but the model takes texts")
    said = sentence("infer", ["--model=ResNet18", "--image_shape=3,32,32", "--text", "a cat"])
    assert "--text: text 'a cat', but the model takes images" in said
    said = sentence("infer", [f"--pretrained_model={text_run}", "--text", " "])
    assert "text 1 of --text is empty" in said
    said = sentence("infer", [f"--pretrained_model={text_run}", "--text", "a", "--input", texts])
    assert "--input names files and --text brings texts; give one of them" in said
    said = sentence("infer", ["--model=HashedNgrams", "--pooling=cls", "--text", "a"])
    assert "pooling is cls, but HashedNgrams has no class token; avg, max, gem and attention take all tokens" in said
    said = sentence("infer", ["--model=HashedNgrams", "--runtime=openvino", "--text", "a"])
    assert "--runtime=openvino takes networks for images" in said


# Networks of transformers.


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A folder as transformers writes it: a BERT of two layers with random weights, and its tokenizer."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("hf") / "bert"
    words = sorted({word for text in SENTENCES for word in text.split()} | {*COLOURS, *THINGS, "on", '"', ","})
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(marks + words) + "\n")
    transformers.BertTokenizerFast(vocab={word: i for i, word in enumerate(marks + words)}).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(marks + words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def test_padding_changes_no_embedding_of_a_transformer(bert):
    row = BACKBONES[f"hf:{bert}"](f"hf:{bert}")
    assert row.modality == "text" and row.width == 16 and len(row.stages) == 3
    model = Embedder(f"hf:{bert}", weights="published")
    tokenizer = row.preprocess.open_tokenizer()
    assert len(tokenizer("cat " * 100)) == 24 and tokenizer("cat")[0] == 2
    assert_padding_changes_nothing(model, SENTENCES, tokenizer, 200)


def test_tokens_are_those_of_transformers(bert):
    import transformers

    model = Embedder(f"hf:{bert}", weights="published").eval()
    theirs = transformers.AutoModel.from_pretrained(bert).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    batch = tokenizer(list(SENTENCES), padding=True, return_tensors="pt")
    numbers = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, PADDING)
    with torch.no_grad():
        tokens = theirs(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(2)
        torch.testing.assert_close(model(numbers), (tokens * mask).sum(1) / mask.sum(1))


def test_a_transformer_is_trained_and_found_again(texts, bert, tmp_path):
    flags = {"model": f"hf:{bert}", "pretrained_model": "published", "pooling": "cls", "freeze_stages": 1}
    run("train_pair", text_flags(texts, tmp_path / "run", loss_name="triplet", **flags))
    said = run("eval", [f"--pretrained_model={tmp_path / 'run'}", "--num_workers=0", "--use_gpu=False"])
    assert "16 texts" in said
    said = run("infer", ["--pretrained_model", bert, "--text", "a red cat", "--use_gpu=False", "--num_workers=0"])
    assert "1 text, 16 numbers each" in said


def test_folders_that_are_no_text_network(bert, tmp_path):
    import shutil

    def said(folder):
        return sentence("infer", [f"--model=hf:{folder}", "--text", "a", "--use_gpu=False", "--num_workers=0"])

    assert f"hf:{tmp_path / 'nowhere'}: neither a folder" in said(tmp_path / "nowhere")
    # A tokenizer without its model, and a model without its tokenizer.
    shutil.copytree(bert, tmp_path / "lone", ignore=shutil.ignore_patterns("config.json", "*.safetensors"))
    assert f"the folder '{tmp_path / 'lone'}' has no configuration that can be read" in said(tmp_path / "lone")
    shutil.copytree(bert, tmp_path / "mute", ignore=shutil.ignore_patterns("vocab*", "token*", "special*"))
    assert f"'{tmp_path / 'mute'}' has no tokenizer" in said(tmp_path / "mute")
    # Code of its own stays what it is.
    shutil.copytree(bert, tmp_path / "code")
    config = json.loads((tmp_path / "code" / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.Mine", "AutoModel": "code.Mine"}}
    (tmp_path / "code" / "config.json").write_text(json.dumps(config))
    (tmp_path / "code" / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert f"the folder '{tmp_path / 'code'}' has no configuration that can be read" in said(tmp_path / "code")
    assert not (tmp_path / "ran").exists()


# The stamps of the demo.


def test_stamps_become_a_list(tmp_path, capsys):
    stamps = tmp_path / "stamps"
    for path, lines in {
        "animals/cat.txt": ["A cat.", "de.utf8=Eine Katze.", "fr.utf8=Un chat.", "nl.utf8=Een kat"],
        "animals/cat_2.txt": ["A cat!", "es.utf8=Un  gato"],
        "animals/dog.txt": ["A dog.", "de.utf8=Ein Hund.", "xx.utf8=Eine Katze.", "de_AT.utf8=Ein Hund."],
        "plants/oak.txt": ["An oak.", "yy.utf8="],
    }.items():
        (stamps / path).parent.mkdir(parents=True, exist_ok=True)
        (stamps / path).write_text("\n".join(lines) + "\n")
    found = read_stamps(stamps)
    assert {label: list(stamp.texts) for label, stamp in found.items()} == {
        "A cat": ["A cat.", "Un chat.", "Een kat", "A cat!", "Un gato"],
        "A dog": ["A dog.", "Ein Hund."],
    }
    build_stamps([str(stamps), str(tmp_path / "a" / "list.csv")])
    assert "texts of 1 stamps to train with" in capsys.readouterr().out
    assert open_list(tmp_path / "a" / "list.csv", None, "train").noun == "text"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no stamps"):
        read_stamps(tmp_path / "empty")
