"""What was found, as plain JSON."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from retrieval.answers import diverse_order, pool_of
from retrieval.index.index import Hits
from serving.asked import Asked
from serving.generation import Generation


def wanted_hits(asked: Asked) -> int:
    """How many hits a query has to have for all that is asked for."""
    wanted = pool_of(asked.k) if asked.diversity else asked.k
    # An item is nearest to itself, which nobody has to be told.
    return wanted if asked.item is None else wanted + 1


def shown_answers(
    answers: Sequence[tuple[Generation, Hits]], asked: Asked, sources: Sequence[list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """What was found, plain JSON; of several hits of a label, with `group`, the best score leads.

    Where the index has a decision, each hit has P(same), and a query of which none is called the same is unknown.
    """
    shown = []
    for (generation, found), source in zip(answers, sources):
        hits = _chosen(generation, found, asked)
        decision = generation.index.decision
        same = [None] * len(hits.ids)
        is_same = [None] * len(hits.ids)
        if decision is not None:
            same = decision.probability(hits.scores).round(4).tolist()
            is_same = decision.is_same(hits.scores).tolist()
        rows = []
        facts_of_hits = generation.facts(hits.ids.tolist())
        for facts, score, probability, is_one in zip(facts_of_hits, hits.scores.tolist(), same, is_same):
            rows.append({**facts, "score": round(score, 6), "same": probability, "is_same": is_one})
        unknown = None
        if decision is not None:
            unknown = not any(row["is_same"] for row in rows)
        answer: dict[str, Any] = {"query": source, "unknown": unknown, "hits": rows}
        if asked.group == "label":
            answer["groups"] = _grouped(rows)
        shown.append(answer)
    return shown


def _chosen(generation: Generation, hits: Hits, asked: Asked) -> Hits:
    """Those of the hits of one query that are shown: without the item that asked, and unlike each other."""
    places = np.flatnonzero(hits.ids != (-1 if asked.item is None else asked.item))
    if asked.diversity:
        units = generation.rows.normalized(hits.ids[places])
        places = places[diverse_order(hits.scores[places], units, asked.k, asked.diversity)]
    places = places[: asked.k]
    return Hits(*(column[places] for column in hits))


def _grouped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Hits by label, in the order of their best ones; each that has no label stands alone."""
    groups: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        # 7 and "7" are two labels.
        key = (type(row["label"]), row["label"])
        if row["label"] is None:
            key = (Generation, row["id"])
        facts = {"label": row["label"], "label_name": row["label_name"], "score": row["score"], "items": []}
        groups.setdefault(key, facts)["items"].append(row["id"])
    return list(groups.values())
