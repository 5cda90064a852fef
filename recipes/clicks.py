"""What clicks on answers teach: simulated on some labels, judged on others that nobody clicked on.

For each network that is given, as embeddings of the list that it was trained on and of one that it was not:

    python infer.py --pretrained_model=output/arc --test_list=Ebay_train.txt --output=train.npz
    python infer.py --pretrained_model=output/arc --test_list=Ebay_test.txt --output=test.npz
    python recipes/clicks.py --train train.npz --test test.npz

Labels of the second list are halved at random, `--draws` times. In one half `--queries` images ask, each answer among
the nearest `--answers` is clicked right or wrong by its true label. The other half is searched as it is, then with the
clicks alone, then behind the whitening of the train list alone (which costs no click), then behind that of the train
list and the clicks, as `train_pair.py --loss_name=whitening --feedback=feedback.csv` makes it. Prints Recall@1 of each
draw, and paired differences with the standard error of their mean over draws (draws of one network share its images: of
networks there have to be several for an interval).
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # a script's own folder is searched for modules, the repository is not
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from core import openmp  # noqa: F401
from config.script import run_script  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from embeddings.files import load_table  # noqa: E402
from solvers import Clicks, Whitening  # noqa: E402


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", required=True, help="embeddings of train lists, one a network")
    parser.add_argument("--test", nargs="+", required=True, help="embeddings of lists that were not trained on")
    parser.add_argument("--queries", type=int, default=40, help="images that ask")
    parser.add_argument("--answers", type=int, default=5, help="answers of each that are clicked")
    parser.add_argument("--draws", type=int, default=3, help="halvings of the labels of each network")
    parser.add_argument("--total_share", type=float, default=0.1)
    parser.add_argument("--right_weight", type=float, default=0.1)
    parser.add_argument("--wrong_weight", type=float, default=0.03)
    flags = parser.parse_args(argv)
    solver = Whitening(0.1, flags.total_share, right_weight=flags.right_weight, wrong_weight=flags.wrong_weight)
    rows = []
    for number, (train, test) in enumerate(zip(flags.train, flags.test, strict=True)):
        learned, codes = read(train)
        without = solver.solve(learned, codes)
        for draw in range(flags.draws):
            generator = torch.Generator().manual_seed(1000 * number + draw)
            clicks, others, other_codes, right = click(*read(test), flags.queries, flags.answers, generator)
            behind = solver.solve(learned, codes, clicks)
            figures = [recall(others, other_codes), recall(others @ clicks_alone(clicks), other_codes)]
            for affine in (without, behind):
                figures.append(recall(others.double() @ affine.weight.T + affine.bias, other_codes))
            rows.append(figures)
            shown = "  ".join(f"{figure:6.2f}" for figure in figures)
            print(
                f"network {number} draw {draw}: {right} right of {flags.queries * flags.answers}; {shown}", flush=True
            )
    figures = np.array(rows)
    print(f"Recall@1 in %: as it is, clicks alone, whitened, both: {figures.mean(0).round(2).tolist()}")
    for name, gains in (
        ("clicks alone over the network", figures[:, 1] - figures[:, 0]),
        ("clicks and whitening over the network", figures[:, 3] - figures[:, 0]),
        ("clicks over whitening alone", figures[:, 3] - figures[:, 2]),
    ):
        error = gains.std(ddof=1) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
        print(f"{name}: {gains.mean():+.2f}, standard error {error:.2f}, from {gains.min():+.2f} to {gains.max():+.2f}")


def read(file: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit embeddings (N, D) and label codes (N,) of an .npz."""
    table = load_table(file)
    embeddings = torch.nn.functional.normalize(table.head(len(table)), dim=1)
    return embeddings, torch.from_numpy(table.records.vocabulary.codes)


def click(
    embeddings: torch.Tensor, codes: torch.Tensor, queries: int, answers: int, generator: torch.Generator
) -> tuple[Clicks, torch.Tensor, torch.Tensor, int]:
    """(Clicks on half of the labels, embeddings of the other half, codes of these, how many clicks are right)."""
    labels = torch.randperm(int(codes.max()) + 1, generator=generator)
    is_clicked = torch.isin(codes, labels[: len(labels) // 2])
    own, own_codes = embeddings[is_clicked], codes[is_clicked]
    similarities = own @ own.T
    similarities.fill_diagonal_(-torch.inf)
    asking = torch.randperm(len(own), generator=generator)[:queries]
    found = similarities[asking].topk(answers, dim=1).indices
    differences = (own[asking][:, None] - own[found]).flatten(0, 1)
    same = (own_codes[asking][:, None] == own_codes[found]).flatten()
    clicks = Clicks(differences[same], differences[~same])
    return clicks, embeddings[~is_clicked], codes[~is_clicked], int(same.sum())


def clicks_alone(clicks: Clicks) -> torch.Tensor:
    """(I + D R / tr R)^(-1/2), R the scatter of right pairs: directions in which they differ count less."""
    scatter = clicks.right.T @ clicks.right
    width = len(scatter)
    variances, vectors = torch.linalg.eigh(torch.eye(width) + width / scatter.trace() * scatter)
    return (vectors * variances.rsqrt()) @ vectors.T


def recall(embeddings: torch.Tensor, codes: torch.Tensor) -> float:
    """Recall@1 in %."""
    embeddings = torch.nn.functional.normalize(embeddings.float(), dim=1)
    similarities = embeddings @ embeddings.T
    similarities.fill_diagonal_(-torch.inf)
    return 100 * (codes[similarities.argmax(1)] == codes).float().mean().item()


if __name__ == "__main__":
    run_script(main)
