"""PostgreSQL with the extension pgvector: a server, of which each index has a table of its own with a graph (HNSW).

The index's card stays the truth: a change is one transaction, which comes before the card names it, so what a process
that died has left in the table are items that no card knows. They are never found, and the next change removes them.
"""

import contextlib
import os
import re
import struct
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import numpy as np

from core.errors import InputError, first_line
from core.text import counted
from retrieval.index.backends import BACKENDS
from retrieval.index.backends._backend import Backend, require
from retrieval.index.backends._facts import facts_of
from retrieval.index.segments import Rows
from retrieval.index.selection import Selection

VARIABLE = "POSTGRES_URL"  # of the environment, which a flag would show to everyone on the machine
FORM = "postgresql://user@host:5432/database"
TABLE = "images_[0-9a-f]{12}"  # only a table called so is ever dropped
SECRETS = ("password", "sslpassword")
WIDEST = {True: 4000, False: 2000}  # numbers that pgvector's graph takes, at half precision and at single
MOST_PROBES = 1000  # pgvector's own limit
BUILT_WITH = 100  # candidates for the links of an item
OLDEST = (0, 8)  # of pgvector: the first whose search goes on until enough is found
BLOCK = 64 * 2**20  # bytes of embeddings read at a time
WAIT = 10  # seconds for a server that does not answer
COLUMNS = """
    id bigint PRIMARY KEY, embedding {kind}({width}) NOT NULL, label text, name text, category text, path text NOT NULL,
    box double precision[]
"""
# Of COPY's binary form: what it begins and ends with, and an array of four numbers, whose type is 701.
HEADER, TRAILER = b"PGCOPY\n\xff\r\n\0" + b"\0" * 8, b"\xff\xff"
FOUR_NUMBERS = b"\0\0\0\1\0\0\0\0\0\0\2\xbd\0\0\0\4\0\0\0\1"  # dimensions, no NULL, type, length, first

# A server asks for the password again at each connection, and no file of ours has it: {URL without it: password}.
_passwords: dict[str, str] = {}


@BACKENDS.register("pgvector", package="psycopg")
class PgvectorBackend(Backend):
    """A table of a PostgreSQL server, which SQL can ask too; needs psycopg, and pgvector on the server.

    Options:
        postgres_url: address of the database, such as postgresql://user@host:5432/database (empty: $POSTGRES_URL); its
            password is not kept, and is taken from $POSTGRES_URL, $PGPASSWORD or ~/.pgpass later
        halfvec: keep two bytes a number, not four
        links: links of an item in the graph
        probes: items that a query follows in the graph
    """

    def __init__(self, postgres_url: str = "", halfvec: bool = True, links: int = 16, probes: int = 128):
        for name, value, least, most in (("links", links, 2, 100), ("probes", probes, 1, MOST_PROBES)):
            if not least <= value <= most:
                raise InputError(f"{name} is {value}; pgvector takes {least} to {most}")
        given = postgres_url or os.environ.get(VARIABLE, "")
        self.url = ""
        if given:
            self.url = _remembered(given)
            self.psycopg = require("psycopg", "'psycopg[binary]'", "pgvector")
        self.kind = "halfvec" if halfvec else "vector"
        self.links = links
        self.probes = probes
        self.is_half = halfvec

    @staticmethod
    def keeps(options: dict) -> dict[str, object]:
        return {"table": TABLE, "last": int}

    def kept_options(self, options: dict) -> dict:
        return {**options, "postgres_url": self.url}

    def refuse_new(self) -> None:
        if not self.url:
            raise InputError(f"the backend pgvector needs a server: give --postgres_url={FORM}, or ${VARIABLE}")
        with self._asking() as connection:
            version = self._version(connection)
            if version is None:
                with contextlib.suppress(self.psycopg.Error):
                    connection.execute("CREATE EXTENSION vector")
                version = self._version(connection)
        if version is None:
            raise InputError(
                f"PostgreSQL at {self.url} has no extension vector (pgvector), and this user cannot make it: have its "
                "administrator run CREATE EXTENSION vector"
            )
        if tuple(int(number) for number in re.findall(r"\d+", version)[:2]) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise InputError(f"PostgreSQL at {self.url} has pgvector {version}; {oldest} or later is needed")

    def check(self, items: int, width: int) -> None:
        most = WIDEST[self.is_half]
        if width > most:
            raise InputError(
                f"pgvector's graph takes {counted(most, 'number')} as {self.kind}; these embeddings have {width}"
            )

    def update(self, folder: Path, generation: int, rows: Rows, state: dict | None) -> dict | None:
        is_new = state is None
        if is_new:
            table = f"images_{uuid.uuid4().hex[:12]}"
            state = {"built": generation, "approximate": True, "table": table, "last": -1}
        with self._asking() as connection, connection.transaction():
            table = self._table(state)
            if is_new:
                columns = COLUMNS.format(kind=self.kind, width=rows.width)
                self._run(connection, f"CREATE TABLE {{}} ({columns})", table)
            else:
                # Of a change that died, before the card named what it wrote.
                self._run(connection, "DELETE FROM {} WHERE id > %s", table, [state["last"]])
            self._copy(connection, table, rows, state["last"])
            if is_new:
                self._make_indexes(connection, table)
        if not len(rows):
            return state
        return {**state, "last": int(rows.ids[-1])}

    def settle(self, state: dict, deleted: np.ndarray) -> None:
        if len(deleted):
            with self._asking() as connection:
                self._run(connection, "DELETE FROM {} WHERE id = ANY(%s)", self._table(state), [deleted.tolist()])

    def discard(self, state: dict) -> None:
        with self._asking() as connection:
            self._run(connection, "DROP TABLE IF EXISTS {}", self._table(state))

    def open(self, folder: Path, state: dict | None, rows: Rows) -> None:
        self.table = self._table(state)
        self.connection = None
        self.lock = threading.Lock()  # a connection answers one thread at a time
        with self._asking() as connection:
            [known] = connection.execute("SELECT to_regclass(%s)", [state["table"]]).fetchone()
        if known is None:
            raise InputError(
                f"PostgreSQL at {self.url} has no table {state['table']}, which index {str(folder)!r} is searched in: "
                "build it anew with --overwrite=True"
            )

    def candidates(self, queries: np.ndarray, k: int, selection: Selection | None = None) -> np.ndarray:
        with self.lock:
            try:
                return self._found(queries, k, selection)
            except (self.psycopg.OperationalError, self.psycopg.InterfaceError):
                # A server that was started again has forgotten this connection.
                self.connection = None
            with self._saying():
                return self._found(queries, k, selection)

    def _found(self, queries: np.ndarray, k: int, selection: Selection | None) -> np.ndarray:
        if self.connection is None:
            self.connection = self._connect()
            # The graph is gone on through until enough is found that passes a filter.
            self.connection.execute("SET hnsw.iterative_scan = relaxed_order")
            self.connection.execute("SET jit = off")
        condition, values = _condition(selection)
        ask = self.psycopg.sql.SQL(
            f"SELECT id FROM {{}} WHERE {condition} ORDER BY embedding <#> %s::{self.kind} LIMIT %s"
        ).format(self.table)
        candidates = np.full((len(queries), k), -1)
        probes = min(MOST_PROBES, max(self.probes, k))
        with self.connection.transaction(), self.connection.pipeline():
            self.connection.execute(f"SET LOCAL hnsw.ef_search = {probes}")
            cursors = []
            for query in queries:
                cursors.append(self.connection.execute(ask, [*values, _as_text(query), k]))
            for row, cursor in enumerate(cursors):
                ids = [id_ for (id_,) in cursor.fetchall()]
                candidates[row, : len(ids)] = ids
        return candidates

    def _copy(self, connection, table, rows: Rows, after: int) -> None:
        """Write the items above the id `after`, in PostgreSQL's binary form: as text they take ten times as long."""
        statement = self.psycopg.sql.SQL("COPY {} FROM STDIN (FORMAT BINARY)").format(table)
        number = ">f2" if self.is_half else ">f4"
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(HEADER)
            for ids, embeddings in rows.normalized_blocks(BLOCK, after=after):
                vectors = embeddings.astype(number)
                head = struct.pack("!hh", rows.width, 0)
                for facts, vector in zip(facts_of(rows, ids), vectors, strict=True):
                    copy.write(_copied(facts, head + vector.tobytes()))
            copy.write(TRAILER)

    def _make_indexes(self, connection, table) -> None:
        # Local to the transaction: a graph that does not fit into this memory takes many times as long.
        connection.execute("SET LOCAL maintenance_work_mem = '1GB'")
        self._run(connection, "CREATE INDEX ON {} (label)", table)
        self._run(connection, "CREATE INDEX ON {} (category)", table)
        candidates = max(BUILT_WITH, 2 * self.links)  # pgvector wants twice the links at least
        graph = f"(embedding {self.kind}_ip_ops) WITH (m = {self.links}, ef_construction = {candidates})"
        self._run(connection, f"CREATE INDEX ON {{}} USING hnsw {graph}", table)

    def table_bytes(self, state: dict) -> int:
        """What an index's table takes on the server, its graph included."""
        with self._asking() as connection:
            [size] = connection.execute("SELECT pg_total_relation_size(%s::regclass)", [state["table"]]).fetchone()
        return size

    def _version(self, connection) -> str | None:
        found = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
        return found and found[0]

    def _table(self, state: dict):
        """The table's name as SQL has it; a card may come from anyone."""
        if not re.fullmatch(TABLE, state["table"]):
            raise InputError(f"{state['table']!r} is no table of an index")
        return self.psycopg.sql.Identifier(state["table"])

    def _run(self, connection, statement: str, table, values: list | None = None) -> None:
        connection.execute(self.psycopg.sql.SQL(statement).format(table), values)

    def _connect(self):
        facts = {"connect_timeout": WAIT, "application_name": "search"}
        if self.psycopg.pq.version() >= 160000:
            # A card may name anybody's server: it is not told the password as it is, unless the address says so.
            facts["require_auth"] = "!password"
        for name, _ in parse_qsl(urlsplit(self.url).query):
            facts.pop(name, None)
        if self.url in _passwords:
            facts["password"] = _passwords[self.url]
        return self.psycopg.connect(self.url, autocommit=True, **facts)

    @contextlib.contextmanager
    def _asking(self) -> Iterator:
        """A connection for one task, whose refusals come in one sentence."""
        if not self.url:
            raise InputError(f"the backend pgvector needs a server: set ${VARIABLE} to {FORM}")
        with self._saying(), contextlib.closing(self._connect()) as connection:
            yield connection

    @contextlib.contextmanager
    def _saying(self) -> Iterator[None]:
        try:
            yield
        except self.psycopg.OperationalError as error:
            raise InputError(f"PostgreSQL at {self.url} does not answer: {_reason(error)}") from None
        except self.psycopg.Error as error:
            raise InputError(f"PostgreSQL at {self.url} refuses: {_reason(error)}") from None


def _remembered(url: str) -> str:
    """A URL without its password, which is remembered for this process. Raises InputError for what is no such URL."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # which is looked at only now
    except ValueError:
        raise InputError(f"postgres_url is no address such as {FORM}") from None
    if parts.scheme not in ("postgresql", "postgres") or not parts.netloc:
        raise InputError(f"postgres_url is no address such as {FORM}")
    # Whatever of it may be a password is left out, an @ within it included.
    userinfo, sign, host = parts.netloc.rpartition("@")
    user, _, password = userinfo.partition(":")
    query = []
    for name, value in parse_qsl(parts.query):
        if name == "password":
            password = value
        elif name not in SECRETS:
            query.append((name, value))
    kept = urlunsplit((parts.scheme, f"{user}{sign}{host}", parts.path, urlencode(query), ""))
    if password:
        _passwords[kept] = unquote(password)
    elif kept not in _passwords and url != os.environ.get(VARIABLE):
        # The environment may have the password of the address that a card names.
        with contextlib.suppress(InputError):
            _remembered(os.environ.get(VARIABLE, ""))
    return kept


def _condition(selection: Selection | None) -> tuple[str, list]:
    """(what has to hold of a row, values for its places)."""
    conditions = ["TRUE"]
    values = []
    if selection is not None:
        for column, wanted in (("label", selection.labels), ("category", selection.categories)):
            if wanted is None:
                continue
            texts = [_storable(str(value)) for value in wanted if value is not None]
            condition = f"{column} = ANY(%s)"
            if None in wanted:
                condition = f"({condition} OR {column} IS NULL)"
            conditions.append(condition)
            values.append(texts)
    return " AND ".join(conditions), values


def _copied(facts: dict, vector: bytes) -> bytes:
    """One row in COPY's binary form."""
    fields = [struct.pack("!q", facts["id"]), vector]
    for name in ("label", "name", "category", "path"):
        value = facts[name]
        fields.append(None if value is None else _storable(str(value)).encode())
    box = facts["box"]
    if box is not None:
        box = FOUR_NUMBERS + b"".join(struct.pack("!id", 8, side) for side in box)
    fields.append(box)
    parts = [struct.pack("!h", len(fields))]
    for field in fields:
        if field is None:
            parts.append(struct.pack("!i", -1))
        else:
            parts += [struct.pack("!i", len(field)), field]
    return b"".join(parts)


def _storable(text: str) -> str:
    """A text without what PostgreSQL's cannot hold."""
    return text.encode(errors="replace").decode().replace("\0", "?")


def _as_text(vector: np.ndarray) -> str:
    return f"[{','.join(map(repr, vector.tolist()))}]"


def _reason(error: Exception) -> str:
    """What the server says, without the name of the connection that the sentence has already."""
    return first_line(error).rpartition("FATAL:")[2].strip()
