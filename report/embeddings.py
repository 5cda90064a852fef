"""Embeddings on the console: their first numbers, and the likeliest labels."""

from embeddings.classifier import Classifier
from embeddings.table import EmbeddingTable


def print_features(table: EmbeddingTable, most: int) -> None:
    """Print the first numbers of the first images, `most` at most."""
    for row, numbers in enumerate(table.head(most)[:, :5].tolist()):
        print(f"Test-{row}-feature: {[round(number, 6) for number in numbers]}")


def print_scores(table: EmbeddingTable, most: int, classifier: Classifier) -> None:
    """Print the likeliest labels of the first images, `most` at most."""
    for row, likeliest in enumerate(classifier.likeliest(table.head(most))):
        scores = ", ".join(f"{label} {probability:.4f}" for label, probability in likeliest)
        print(f"Test-{row}-scores: {scores} ({table.records.paths[row]})")
