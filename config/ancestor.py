"""Flags of the ancestor's recipes (PaddlePaddle's metric_learning) that mean nothing to the rest."""


def print_kpis(result: dict | None, *, enable_ce: bool = False, with_mem_opt: bool = True) -> None:
    """Print the ancestor's machine-read lines of a result.json, which the first rank has.

    Options:
        enable_ce: print the ancestor's `kpis` lines at the end
        with_mem_opt: of the ancestor's recipes; no effect
    """
    if result is None or not enable_ce:
        return
    figures = dict(result["train"])
    figures.pop("lr", None)
    for name, value in figures.items():
        print(f"kpis\ttrain_{name}\t{value}")
    print(f"kpis\ttest_recall\t{result['recall']['1']}")
