"""Backend pgvector against a real PostgreSQL over TCP: what it finds and keeps, what becomes of it when either dies."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from postgres import PASSWORD, USER, postgres  # noqa: F401
from test_index import (  # noqa: F401
    MODEL,
    assert_finds,
    built,
    data,
    exact,
    on_disk,
    test_adds_and_deletes_and_never_uses_an_id_twice,
    test_an_item_is_there_once,
    test_an_item_whose_picture_has_changed_is_replaced,
    test_building_over_an_index_replaces_it,
    test_deleted_items_are_not_found_however_many,
    test_each_box_of_a_picture_is_an_item,
    test_finds_what_a_plain_sort_finds,
    test_k_beyond_the_index_means_all_of_it,
    test_zero_embeddings_everywhere,
)
from test_index_selection import SELECTIONS, columns

from core.errors import InputError
from retrieval.index.backends import _backend, pgvector
from retrieval.index.folder import CARD
from retrieval.index.index import Index

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow  # some seconds for the server, which these share


@pytest.fixture
def case(postgres):  # noqa: F811
    return "pgvector", {"postgres_url": postgres.url()}


@pytest.fixture
def sql(postgres):  # noqa: F811
    """Run a statement on the server; its rows."""
    psycopg = pytest.importorskip("psycopg")

    def run(statement, *values, database="postgres"):
        with psycopg.connect(postgres.url(database=database), autocommit=True) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    return run


def tables(sql):
    return {name for (name,) in sql("SELECT tablename FROM pg_tables WHERE tablename LIKE 'images%'")}


@pytest.mark.parametrize("halfvec", [True, False])
def test_only_items_of_these_are_found(case, tmp_path, monkeypatch, halfvec):
    """The server filters; markup, SQL and what its text cannot hold are labels like others."""
    monkeypatch.setattr(_backend, "FEW_SELECTED", 0)
    labels, categories = columns(60)
    embeddings, paths, _ = data(60)
    options = {**case[1], "halfvec": halfvec}
    index = Index.build(tmp_path / "i", embeddings, paths, labels, MODEL, case[0], options, categories=categories)
    pairs = list(zip(labels, categories, strict=True))
    for wanted, is_meant in SELECTIONS:
        if "Felis catus" in str(wanted):
            continue  # this index has no names
        ids = [i for i, pair in enumerate(pairs) if is_meant(*pair)]
        assert_finds(index, embeddings[ids], ids, data(3, seed=1)[0], 4, **wanted)


ODD = ["'; DROP TABLE images; --", "<script>alert(1)</script>", "%s %(x)s {}", "nul\0nul", "caf\udce9", '"', "\\", ""]


def test_sql_and_markup_are_texts(case, tmp_path, monkeypatch, sql):
    monkeypatch.setattr(_backend, "FEW_SELECTED", 0)
    count = len(ODD)
    embeddings, paths = data(count)[0], [f"/{text}.jpg".replace("\0", "") for text in ODD]
    names = {text: f"name of {text}" for text in ODD}
    boxes = [[0, 0, 64, 128.5], *[[np.nan] * 4] * (count - 1)]
    index = Index.build(
        tmp_path / "i", embeddings, paths, ODD, MODEL, *case, categories=ODD[::-1], names=names, boxes=boxes
    )
    for number, text in enumerate(ODD):
        hits = index.search(embeddings, 3, labels=text, categories=ODD[::-1][number])
        assert hits.ids.tolist() == [[number]] * count and hits.labels[0, 0] == text
    table = index.card["state"]["table"]
    rows = sql(f"SELECT id, label, name, category, path, box FROM {table} ORDER BY id")
    assert rows[0] == (0, ODD[0], f"name of {ODD[0]}", "", paths[0], [0, 0, 64, 128.5])
    assert [row[1] for row in rows] == [*ODD[:3], "nul?nul", "caf?", *ODD[5:]]


def test_a_table_holds_what_the_index_holds(case, tmp_path, sql):
    before = tables(sql)
    index = Index.build(tmp_path / "i", *data(60), MODEL, *case)
    table = index.card["state"]["table"]
    assert tables(sql) - before == {table}
    index.add(*data(20, seed=1))
    index.delete([3, 70])
    live = [i for i in range(80) if i not in (3, 70)]
    assert [id_ for (id_,) in sql(f"SELECT id FROM {table} ORDER BY id")] == live
    assert index.card["recall"]["value"] == 1 and "hnsw" in str(sql("SELECT indexdef FROM pg_indexes"))
    Index.build(tmp_path / "i", *data(9), MODEL, overwrite=True)
    assert tables(sql) == before
    on_disk(tmp_path / "i")


def test_no_password_is_written(case, tmp_path, postgres, monkeypatch, capfd):  # noqa: F811
    index = Index.build(tmp_path / "i", *data(9), MODEL, *case)
    assert index.card["options"]["postgres_url"] == postgres.bare_url
    for file in index.folder.rglob("*"):
        assert not file.is_file() or b"c/r?et" not in file.read_bytes() and b"c%2Fr%3Fet" not in file.read_bytes()
    # Another process has it from the environment, by one of two names.
    script = "import sys, numpy; from retrieval.index.index import Index; i = Index.open(sys.argv[1]);"
    script += "print(i.search(numpy.ones((1, 16), numpy.float32), 2).ids.shape)"
    for variables in ({"PGPASSWORD": PASSWORD}, {"POSTGRES_URL": postgres.url()}, {}, {"PGPASSWORD": "wrong"}):
        done = subprocess.run(
            [sys.executable, "-c", script, index.folder],
            cwd=ROOT,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
        )
        if len(variables) == 1 and "wrong" not in variables.values():
            assert done.stdout == "(1, 2)\n", done.stderr
        else:
            assert f"PostgreSQL at {postgres.bare_url} does not answer: " in done.stderr
        assert "c/r?et" not in done.stderr + done.stdout
    monkeypatch.setenv("POSTGRES_URL", postgres.url())
    assert len(Index.build(tmp_path / "j", *data(9), MODEL, "pgvector", {})) == 9
    assert "c/r?et" not in "".join(capfd.readouterr())


def test_addresses_that_cannot_be(postgres, tmp_path, sql, monkeypatch):  # noqa: F811
    monkeypatch.delenv("POSTGRES_URL", raising=False)
    sql("DROP DATABASE IF EXISTS bare")
    sql("CREATE DATABASE bare")
    sql("DROP ROLE IF EXISTS guest")
    sql("CREATE ROLE guest LOGIN PASSWORD 'secret'")
    guest = f"postgresql://guest@127.0.0.1:{postgres.port}/bare"
    cases = {
        "": "the backend pgvector needs a server: give --postgres_url=postgresql://user@host:5432/database",
        "localhost:5432": "postgres_url is no address such as postgresql://",
        "mysql://u:secret@h/d": "postgres_url is no address such as postgresql://",
        "postgresql://u:secret@h:port/d": "postgres_url is no address such as postgresql://",
        postgres.url("secret"): "does not answer: password authentication failed for user",
        postgres.url("secret") + "?connect_timeout=x": "refuses: bad value for connect_timeout",
        "postgresql://u:secret@127.0.0.1:1/d": "PostgreSQL at postgresql://u@127.0.0.1:1/d does not answer: ",
        postgres.url(database="nowhere"): 'database "nowhere" does not exist',
        guest.replace(
            "@", ":secret@"
        ): f"PostgreSQL at {guest} has no extension vector .pgvector., and this user cannot",
    }
    for url, sentence in cases.items():
        with pytest.raises(InputError, match=sentence) as caught:
            Index.build(tmp_path / "i", *data(9), MODEL, "pgvector", {"postgres_url": url})
        assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
        pgvector._passwords.clear()
    monkeypatch.setattr(pgvector.PgvectorBackend, "_version", lambda *_: "0.7.4")
    with pytest.raises(InputError, match="has pgvector 0.7.4; 0.8 or later is needed"):
        Index.build(tmp_path / "i", *data(9), MODEL, "pgvector", {"postgres_url": postgres.url()})
    monkeypatch.undo()
    with pytest.raises(InputError, match="pgvector's graph takes 4000 numbers as halfvec; these embeddings have 4001"):
        Index.build(tmp_path / "i", *data(2, 4001), MODEL, "pgvector", {"postgres_url": postgres.url()})
    for options, sentence in (
        ({"probes": 1001}, "probes is 1001; pgvector takes 1 to 1000"),
        ({"links": 1}, "links is"),
    ):
        with pytest.raises(InputError, match=sentence):
            Index.build(tmp_path / "i", *data(2), MODEL, "pgvector", options)
    assert not (tmp_path / "i").exists()


def test_a_card_names_tables_of_indexes_only(case, tmp_path, sql):
    index = Index.build(tmp_path / "i", *data(9), MODEL, *case)
    sql("CREATE TABLE images_of_mine (id int)")
    card = json.loads((index.folder / CARD).read_text())
    for name in ("images_of_mine", "pg_class", 'images_0123456789ab"; DROP TABLE images_of_mine; --'):
        card["state"]["table"] = name
        (index.folder / CARD).write_text(json.dumps(card))
        with pytest.raises(InputError, match="is damaged: state.table"):
            Index.open(index.folder)
    card["state"]["table"] = "images_0123456789ab"
    (index.folder / CARD).write_text(json.dumps(card))
    with pytest.raises(InputError, match="has no table images_0123456789ab, which index .* is searched in: build it"):
        Index.open(index.folder).search(data(1)[0])
    sql("DROP TABLE images_of_mine")


def test_a_server_that_goes_away_mid_write_changes_nothing(case, tmp_path, postgres, sql, monkeypatch):  # noqa: F811
    """A crash of the server within a change: the index is the old one; when it is back the change works."""
    index = Index.build(tmp_path / "i", *data(60), MODEL, *case)
    reader = Index.open(index.folder)
    reader.search(data(1)[0])
    before, table = on_disk(index.folder), index.card["state"]["table"]

    def crashing(*words, facts_of=pgvector.facts_of):
        postgres.stop()
        return facts_of(*words)

    with monkeypatch.context() as patched:
        patched.setattr(pgvector, "facts_of", crashing)
        with pytest.raises(InputError, match="PostgreSQL at .* (does not answer|refuses): "):
            index.add(*data(9, seed=1))
    for act in (lambda: reader.search(data(1)[0]), lambda: index.delete([0]) and reader.search(data(1)[0])):
        with pytest.raises(InputError, match=f"PostgreSQL at {postgres.bare_url} does not answer: "):
            act()
    with pytest.raises(InputError, match="does not answer"):
        Index.build(tmp_path / "j", *data(9), MODEL, *case)
    assert not (tmp_path / "j").exists() and len(Index.open(index.folder)) in (59, 60)
    postgres.start()
    assert len(reader.search(data(1)[0], 60).ids[0]) == 60  # it connects anew
    assert sql(f"SELECT count(*) FROM {table}") == [(60,)]
    index = Index.open(index.folder)
    size = len(index)
    index.add(*data(9, seed=1))
    assert len(index) == size + 9 and len(before) == len(on_disk(index.folder)) - (2 if size == 59 else 1)


def test_a_change_that_dies_before_the_card_is_no_change(case, tmp_path, sql, monkeypatch):
    """The table has the new items, the card does not: they are not found, and the next change removes them."""
    index = Index.build(tmp_path / "i", *data(60), MODEL, *case)
    table = index.card["state"]["table"]
    with monkeypatch.context() as patched:
        patched.setattr("retrieval.index.changes.replace_json", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(InputError, match="cannot write to index"):
            index.add(*data(30, seed=1))
    assert sql(f"SELECT count(*) FROM {table}") == [(90,)]
    assert_finds(Index.open(index.folder), data(60)[0], range(60), data(4, seed=2)[0], 12)
    Index.open(index.folder).add(*data(2, seed=3))
    assert sql(f"SELECT count(*), max(id) FROM {table}") == [(62, 61)]


ADDER = """
import sys
import numpy as np
from retrieval.index.index import Index

index = Index.open(sys.argv[1])
index.search(np.ones((1, 64), np.float32))
embeddings = np.random.default_rng(1).standard_normal((2000, 64)).astype(np.float32)
print("adding", flush=True)
index.add(embeddings, [f"/new/{i}.jpg" for i in range(2000)], None)
print("added", flush=True)
"""


def test_killed_while_it_adds(case, tmp_path, postgres, sql):  # noqa: F811
    first = Index.build(tmp_path / "i", *data(500, 64), None, *case)
    table, seconds, sizes = first.card["state"]["table"], 2.0, []
    environment = {**os.environ, "PGPASSWORD": PASSWORD}
    for step in range(5):
        shutil.copytree(first.folder, tmp_path / "copy")
        words = [sys.executable, "-c", ADDER, first.folder]
        with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment) as adder:
            assert adder.stdout.readline() == "adding\n"
            start = time.monotonic()
            if step:
                time.sleep(seconds * step / 5)
                adder.kill()
            else:
                assert adder.stdout.readline() == "added\n"
                seconds = time.monotonic() - start
        index = Index.open(first.folder)
        sizes.append(len(index))
        ids = index.rows.ids
        assert (index.search(index.rows.take(ids[-20:])[0], 1).ids[:, 0] == ids[-20:]).all()
        index.add(*data(1, 64, seed=5 + step))
        assert sql(f"SELECT count(*), max(id) FROM {table}") == [(len(index), int(index.rows.ids[-1]))]
        # As it was before, in the folder and in the table.
        index.delete(index.rows.ids[500:].tolist())
        shutil.rmtree(tmp_path / "copy")
    assert sizes[0] == 2500 and set(sizes[1:]) <= {500, 2500} and 500 in sizes


def test_search_script_says_it_in_a_sentence(tmp_path, monkeypatch):
    """Before any image is embedded."""
    monkeypatch.delenv("POSTGRES_URL", raising=False)
    url = "postgresql://u:secret@127.0.0.1:1/d"
    words = ["search.py", "build", tmp_path / "i", "--pretrained_model=imagenet", "--backend=pgvector"]
    done = subprocess.run(
        [sys.executable, *words, f"--postgres_url={url}"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and "PostgreSQL at postgresql://u@127.0.0.1:1/d does not answer" in done.stderr
    assert "secret" not in done.stderr and done.stderr.count("\n") == 1
