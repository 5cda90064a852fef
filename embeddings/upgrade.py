"""An index taken from one model to another while it is searched: a bridge first, then item by item.

A share of the items is embedded by the new model. On some of them maps from old to new embeddings are fitted
(retrieval/bridge.py), on others one is chosen, on the last ones it is judged: how often new queries find what they
should among old items behind the map, beside old queries among old items. Below a bar nothing is changed. Else all
items go through the map by one change, and the index is one of the new model, whose answers are about right; then they
are embedded anew, a batch a change, and become exact.

Which of both an item is its id tells: those below `below` in the card's `upgrade` are behind the map, what was embedded
anew or added since has a higher one. So every process, backend and search sees one space, and whenever one dies the
next goes on.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from core.errors import InputError
from core.items import file_of, is_text
from core.slices import slices_within
from core.text import counted, plural, shown_path
from core.types import Positive, Seed, Share
from data.records import Records
from embeddings.encoder import Encoder
from embeddings.index import folder_on_its_disk, model_source
from embeddings.rows import temporary_rows
from embeddings.streaming import NothingReadable, embed_stream
from embeddings.sync import rows_file
from retrieval.bridge import Bridge, fit_bridges
from retrieval.index.contents import Contents, FileState
from retrieval.index.index import Index

UPGRADE = "upgrade"  # what a card's origin calls an upgrade that is not over
FITTED, CHOSEN = 0.5, 0.25  # shares of the sample; the rest judges
MOST_SAMPLED = 20_000  # items, which are plenty for maps of some thousand dimensions
LEAST_JUDGES = 15  # queries, below which a Recall@1 says nothing
MOST_GALLERY = 50_000  # items that those queries are held against
BLOCK = 2**26  # bytes of embeddings that go through the map, or of similarities, at a time


@dataclass(frozen=True, kw_only=True)
class UpgradeSettings:
    """How an index is taken to another model.

    Options:
        share: of the items, embedded anew to fit the bridge and to judge it
        bar: Recall@1 that new queries have to have among old items behind the bridge, as a share of that of old queries
        upgrade_batch: items embedded anew by each change of the index
        upgrade_seed: of the choice of those items
    """

    share: Share = 0.1
    bar: Share = 0.95
    upgrade_batch: Positive = 1024
    upgrade_seed: Seed = 0


@dataclass(frozen=True)
class Judgement:
    """Recall@1 of `queries` held-out items: before (old among old), during (new among mapped), after (new among new).

    Each among held-out items alone, and the first two among `gallery` items of the index. bridge: the map's name.
    by_label: whether an answer is right by its label; else where it is the item itself.
    """

    bridge: str
    queries: int
    before: float
    during: float
    after: float
    gallery: int
    before_all: float
    during_all: float
    by_label: bool

    @property
    def kept(self) -> float:
        """What the bridge keeps of the Recall@1 among all."""
        return self.during_all / self.before_all if self.before_all else 0.0

    def lines(self) -> list[str]:
        """A table, in text."""
        what = "of the same label" if self.by_label else "itself, since nobody knows labels"
        rows = [
            ("old queries, old items", self.before, f"{self.before_all:.4f}"),
            ("new queries, old items behind the bridge", self.during, f"{self.during_all:.4f}"),
            ("new queries, new items", self.after, "-"),
        ]
        lines = [
            f"bridge: {self.bridge}; Recall@1 of {self.queries} held-out items (the nearest is {what})",
            f"{'':42}{'among themselves':>18}{f'among {self.gallery:,}':>18}",
        ]
        return lines + [f"{name:42}{figure:18.4f}{more:>18}" for name, figure, more in rows]


def progress(index: Index) -> dict | None:
    """What the card says of an upgrade that is not over; None where there is none."""
    started = (index.card["origin"] or {}).get(UPGRADE)
    return started if isinstance(started, dict) and isinstance(started.get("below"), int) else None


def mapped_ids(index: Index) -> np.ndarray:
    """Ids (n,) of the items that are behind the bridge still."""
    started = progress(index)
    if started is None:
        return np.zeros(0, np.int64)
    return index.rows.ids[index.rows.ids < started["below"]]


def begin(index: Index, encoder: Encoder, source: str, settings: UpgradeSettings, say: Callable[[str], None]) -> None:
    """Fit, choose and judge a bridge, and take all items over it.

    encoder, source: of the new model, and its --pretrained_model. Raises InputError, with nothing changed, where the
    bridge is below the bar, and where there is too little to judge it by.
    """
    if encoder.fingerprint == index.card["fingerprint"]:
        raise InputError(f"index {str(index.folder)!r} is of this model already")
    if not settings.share:
        raise InputError("--share=0 leaves nothing to fit a bridge on; give a share above 0")
    index.refuse_empty()
    ids, parts = _sample(index, settings)
    records = _records_of(index, ids)
    share = 100 * len(ids) / len(index)
    say(f"{len(ids)} of {len(index)} {index.noun}s ({share:.0f} %) are embedded to fit a bridge and to judge it")
    # Kept until the change is made: who goes on after a kill does not embed the sample again.
    with embed_stream(records, encoder, f"{rows_file(index.folder)}.upgrade", None, True, True, True) as table:
        ids, parts = _read_rows(records, table.records, ids, parts)
        new = np.asarray(table.mapped())
        bridge, judgement = _chosen(index, ids, parts, new, settings.upgrade_seed)
        for line in judgement.lines():
            say(line)
        if judgement.kept < settings.bar:
            raise InputError(
                f"the bridge keeps {judgement.kept:.4f} of Recall@1, below --bar={settings.bar:g}, and nothing is "
                "changed; a greater --share fits a better one, or build a new index"
            )
        _cross(index, bridge, ids, new, encoder, source, judgement)


def migrate(index: Index, encoder: Encoder, batch: int) -> Iterator[tuple[int, int]]:
    """Embed anew what is behind the bridge, a batch a change; yields (items that are left, files not read) after each.

    Other processes may search, add and delete meanwhile. Ends where nothing is left that can be read.
    """
    index.refuse_others(encoder.fingerprint)
    unread: set[int] = set()
    while True:
        left = [number for number in mapped_ids(index).tolist() if number not in unread]
        if not left:
            return
        ids = np.array(left[:batch], np.int64)
        records = _records_of(index, ids)
        states = {path: FileState.of(path) for path in map(file_of, records.paths.tolist()) if not is_text(path)}
        done = np.zeros(0, np.int64)
        try:
            with embed_stream(records, encoder, None, folder_on_its_disk(index.folder), False, True) as table:
                done, _ = _read_rows(records, table.records, ids, np.zeros(len(ids)))
                numbers = index.reembed(done, table.mapped(), encoder.fingerprint)
                _move_contents(index, numbers, states)
        except NothingReadable:
            pass
        unread |= set(ids.tolist()) - set(done.tolist())
        yield len(mapped_ids(index)), len(unread)


def finish(index: Index) -> list[str]:
    """Forget the bridge where nothing is behind it; else the names of what is, whose files cannot be read."""
    left = mapped_ids(index)
    if len(left):
        return [shown_path(path) for path in index.rows.paths(left)]
    origin = {name: fact for name, fact in index.card["origin"].items() if name != UPGRADE}
    index.note_origin(origin)
    return []


def run_upgrade(
    index: Index, encoder: Encoder, source: str | None, settings: UpgradeSettings, say: Callable[[str], None]
) -> None:
    """All of it, or what is left of it. source: the new model's --pretrained_model, None to go on."""
    began = time.perf_counter()
    already = len(index) - len(mapped_ids(index)) if progress(index) else 0
    if progress(index) is None:
        begin(index, encoder, source, settings, say)
        say(
            f"{index.folder} is of the new model now; {counted(len(mapped_ids(index)), 'item')} still behind the bridge"
        )
    for left, unread in migrate(index, encoder, settings.upgrade_batch):
        done = len(index) - left
        failed = f", {unread} could not be read" if unread else ""
        say(f"{done} of {len(index)} {index.noun}s ({100 * done / len(index):.0f} %) are embedded anew{failed}")
    names = finish(index)
    if names:
        say(
            f"{len(names)} {plural(len(names), 'stays', 'stay')} behind the bridge, since their files cannot be read: "
            f"{', '.join(names[:3])}; delete them or bring them back, and run it again"
        )
    else:
        done, seconds = len(index) - already, time.perf_counter() - began
        before = f", {already} before" if already else ""
        say(
            f"{done} {plural(done, 'is', 'are')} embedded anew in {seconds:.0f} sec{before}; {index.folder} holds "
            f"{len(index)} {index.noun}s of the new model alone"
        )


def _sample(index: Index, settings: UpgradeSettings) -> tuple[np.ndarray, np.ndarray]:
    """(ids (n,) to embed anew, what for: 0 to fit, 1 to choose, 2 to judge). Labels that have several items are taken
    whole, so that held-out ones have something to find; without labels items are taken."""
    generator = np.random.default_rng(settings.upgrade_seed)
    ids, codes = index.rows.ids, index.rows.label_column.codes
    groups = np.where(codes >= 0, codes, -1)
    if not _knows_pairs(codes):
        groups = np.arange(len(ids))
    wanted = min(MOST_SAMPLED, max(1, round(settings.share * len(ids))))
    order = generator.permutation(np.unique(groups[groups >= 0]))
    sizes = np.bincount(groups[groups >= 0])[order]
    taken = order[: int(np.searchsorted(np.cumsum(sizes), wanted)) + 1]
    ends = [round(FITTED * len(taken)), round((FITTED + CHOSEN) * len(taken))]
    part_of = np.full(int(groups.max()) + 1, -1)
    part_of[taken] = np.digitize(np.arange(len(taken)), ends)
    parts = np.where(groups >= 0, part_of[groups], -1)
    return ids[parts >= 0], parts[parts >= 0]


def _knows_pairs(codes: np.ndarray) -> bool:
    """Whether most items share their label with another one."""
    known = codes[codes >= 0]
    return len(known) > 0 and (np.bincount(known)[known] > 1).sum() * 2 > len(codes)


def _chosen(index: Index, ids: np.ndarray, parts: np.ndarray, new: np.ndarray, seed: int) -> tuple[Bridge, Judgement]:
    """The bridge that is best on the items to choose by, fitted on all but those that judge, and what these say."""
    codes = index.rows.label_column.codes[index.rows.positions(ids)]
    by_label = _knows_pairs(index.rows.label_column.codes)
    old = index.rows.take(ids)[0]
    fit, choose, judge = (parts == part for part in range(3))
    if judge.sum() < LEAST_JUDGES or choose.sum() < LEAST_JUDGES or fit.sum() < LEAST_JUDGES:
        raise InputError(
            f"{counted(len(ids), 'item')} {plural(len(ids), 'is', 'are')} too few to fit a bridge and to judge it: "
            f"{LEAST_JUDGES} are needed for each; give a greater --share"
        )
    scores = {}
    for bridge in fit_bridges(old[fit], new[fit]):
        mapped = bridge(old[choose])
        agreement = float((mapped * _unit(new[choose])).sum(1).mean())
        own = (np.arange(choose.sum()), codes[choose], by_label, codes[choose])
        scores[bridge.name] = (_recall_among(new[choose], mapped, *own), agreement)
    name = max(scores, key=scores.get)
    bridge = next(one for one in fit_bridges(old[~judge], new[~judge]) if one.name == name)

    gallery_ids = index.rows.ids
    if len(gallery_ids) > MOST_GALLERY:
        others = np.random.default_rng(seed).choice(gallery_ids, MOST_GALLERY, replace=False)
        gallery_ids = np.union1d(others, ids[judge])
    gallery = index.rows.take(gallery_ids)[0]
    gallery_codes = index.rows.label_column.codes[index.rows.positions(gallery_ids)]
    among_all = (np.searchsorted(gallery_ids, ids[judge]), codes[judge], by_label, gallery_codes)
    own = (np.arange(judge.sum()), codes[judge], by_label, codes[judge])
    judgement = Judgement(
        name,
        int(judge.sum()),
        _recall_among(old[judge], old[judge], *own),
        _recall_among(new[judge], bridge(old[judge]), *own),
        _recall_among(new[judge], new[judge], *own),
        len(gallery),
        _recall_among(old[judge], gallery, *among_all),
        _recall_among(new[judge], bridge(gallery), *among_all),
        by_label,
    )
    return bridge, judgement


def _recall_among(
    queries: np.ndarray,
    gallery: np.ndarray,
    own: np.ndarray,
    codes: np.ndarray,
    by_label: bool,
    gallery_codes: np.ndarray,
) -> float:
    """Recall@1 of queries (Q, E), items `own` (Q,) of a gallery (N, E), by labels of which each is left out itself; of
    those that have a label and somebody to find. Without labels the right answer is the item itself."""
    queries, gallery = torch.from_numpy(_unit(queries)), torch.from_numpy(_unit(gallery))
    is_right = np.zeros(len(queries), dtype=bool)
    for block in slices_within(len(queries), 4 * len(gallery), BLOCK):
        similarities = queries[block] @ gallery.T
        if by_label:
            similarities[torch.arange(len(similarities)), torch.from_numpy(own[block])] = -torch.inf
        nearest = similarities.argmax(1).numpy()
        is_right[block] = gallery_codes[nearest] == codes[block] if by_label else nearest == own[block]
    if not by_label:
        return float(is_right.mean())
    counts = np.bincount(gallery_codes[gallery_codes >= 0], minlength=int(max(codes.max(), 0)) + 1)
    asks = (codes >= 0) & (counts[codes] > 1)
    return float(is_right[asks].mean()) if asks.any() else 0.0


def _cross(
    index: Index,
    bridge: Bridge,
    sampled: np.ndarray,
    new: np.ndarray,
    encoder: Encoder,
    source: str,
    judgement: Judgement,
) -> None:
    """Take all items over the bridge by one change; those that were sampled have their new embeddings already, and ids
    behind all others'."""
    before = index.card
    order = np.concatenate([np.setdiff1d(index.rows.ids, sampled), sampled])
    mapped_count = len(order) - len(sampled)
    contents = Contents.read(index)
    with temporary_rows(folder_on_its_disk(index.folder), new.shape[1]) as rows:
        for block in slices_within(mapped_count, 4 * before["width"], BLOCK):
            rows.append(bridge(index.rows.take(order[block])[0]))
        rows.append(new)
        origin = {
            **(before["origin"] or {}),
            "pretrained_model": model_source(source, encoder.fingerprint),
            UPGRADE: {
                "below": before["next_id"] + mapped_count,
                "bridge": bridge.name,
                "recall": {"before": judgement.before_all, "during": judgement.during_all},
            },
        }
        index.rewrite(order, rows.mapped(), encoder.fingerprint, origin, before["next_id"])
    contents.known = {
        before["next_id"] + number: contents.known[old]
        for number, old in enumerate(order.tolist())
        if old in contents.known
    }
    contents.write(index)


def _move_contents(index: Index, numbers: dict[int, int], states: dict[str, FileState | None]) -> None:
    """Carry what is known of files over to the ids that their items have now, where they are as they were."""
    contents = Contents.read_all(index)
    paths = dict(zip(numbers.values(), index.rows.paths(np.array(list(numbers.values()), np.int64)), strict=True))
    for old, now in numbers.items():
        known = contents.known.pop(old, None)
        if known is not None and known[0] == states.get(file_of(paths[now])):
            contents.known[now] = known
    contents.write(index)


def _records_of(index: Index, ids: np.ndarray) -> Records:
    """Items of an index as a list to embed."""
    columns: dict[str, list] = {"paths": index.rows.paths(ids)}
    boxes = index.rows.boxes(ids)
    if not np.isnan(boxes).all():
        columns["boxes"] = boxes.tolist()
    return Records.of_columns(index.folder, columns)


def _read_rows(given: Records, read: Records, ids: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ids and parts of those rows of a list that could be read."""
    if len(given) == len(read):
        return ids, parts
    there = set(_keys(read))
    chosen = np.array([key in there for key in _keys(given)])
    return ids[chosen], parts[chosen]


def _keys(records: Records) -> list[tuple]:
    if records.boxes is None:
        return [(path,) for path in records.paths.tolist()]
    boxes = np.nan_to_num(records.boxes, nan=-1).tolist()
    return [(path, *box) for path, box in zip(records.paths.tolist(), boxes, strict=True)]


def _unit(embeddings: np.ndarray) -> np.ndarray:
    embeddings = np.asarray(embeddings, np.float32)
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.where(lengths > 0, lengths, 1)
