"""What was found, as plain JSON."""

from collections.abc import Sequence
from typing import Any

from retrieval.index.index import Hits
from serving.asked import Asked
from serving.generation import Generation


def shown_answers(
    answers: Sequence[tuple[Generation, Hits]], asked: Asked, sources: Sequence[list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """What was found, plain JSON; of several hits of a label, with `group`, the best score leads.

    Where the index has a decision, each hit has P(same), and a query of which none is called the same is unknown.
    """
    shown = []
    for (generation, hits), source in zip(answers, sources):
        decision = generation.index.decision
        same = [None] * len(hits.ids)
        is_same = [None] * len(hits.ids)
        if decision is not None:
            same = decision.probability(hits.scores).round(4).tolist()
            is_same = decision.is_same(hits.scores).tolist()
        rows = []
        facts_of_hits = generation.facts(hits.ids.tolist())
        for facts, score, probability, is_one in zip(facts_of_hits, hits.scores.tolist(), same, is_same):
            if facts["id"] != asked.item:
                rows.append({**facts, "score": round(score, 6), "same": probability, "is_same": is_one})
        rows = rows[: asked.k]
        unknown = None
        if decision is not None:
            unknown = not any(row["is_same"] for row in rows)
        answer: dict[str, Any] = {"query": source, "unknown": unknown, "hits": rows}
        if asked.group == "label":
            answer["groups"] = _grouped(rows)
        shown.append(answer)
    return shown


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
