"""What the metrics are called and what they mean, in a sentence each."""

import re

WORDS = {
    "recall@k": ("Recall@{k}", "Queries with a right item among their {k} nearest."),
    "cmc@k": ("CMC@{k}", "Queries with a right item among their {k} nearest."),
    "precision@k": ("Precision@{k}", "Right items among a query's {k} nearest, as a share of {k}."),
    "map@k": (
        "MAP@{k}",
        "The precision at each right item among the {k} nearest, averaged: they count more the earlier they come.",
    ),
    "knn@k": ("{k}-NN accuracy", "Queries whose own label is the commonest among their {k} nearest."),
    "map@r": (
        "MAP@R",
        "The precision at each right item among the R nearest, averaged over R, the number of right items there are.",
    ),
    "r_precision": ("R-precision", "Right items among the R nearest, R being the number of right items there are."),
    "mrr": ("MRR", "One over the place of the first right item: first 100, second 50, third 33."),
    "upper_bound": ("Upper bound", "Queries that have any right item at all: the most that recall can reach."),
}
# What the peers' definitions (docs/metrics.md) say otherwise.
OTHERWISE = {
    ("precision@k", "oml"): "Right items among a query's {k} nearest, as a share of {k}, or of R if fewer are right.",
    (
        "map@k",
        "oml",
    ): "The precision at each right item among the {k} nearest, averaged over those that are found there.",
    (
        "map@k",
        "pml",
    ): "The precision at each right item among the {k} nearest, averaged over all right items there are.",
}


def describe(metric, definition="standard"):
    """(title, meaning) of a metric such as recall@10; an unknown one is its own title and has no meaning."""
    if re.fullmatch(r"(recall|cmc)@1", metric):
        return WORDS[metric.replace("@1", "@k")][0].format(k=1), "Queries whose nearest item is right."
    form = metric if metric in WORDS else re.sub(r"@\d+$", "@k", metric)
    title, meaning = WORDS.get(form, (metric, ""))
    k = metric.rpartition("@")[2]
    return title.format(k=k), OTHERWISE.get((form, definition), meaning).format(k=k)
