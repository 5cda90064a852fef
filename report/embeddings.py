"""Embeddings on the console: their first numbers, and the likeliest labels."""

from embeddings.classifier import Classifier
from embeddings.table import EmbeddingTable


def print_embeddings(table: EmbeddingTable, most: int, classifier: Classifier | None) -> None:
    """Print the first numbers of the first images, `most` at most, and by a classifier their likeliest labels."""
    embeddings = table.head(most)
    for row, numbers in enumerate(embeddings[:, :5].tolist()):
        print(f"Test-{row}-feature: {[round(number, 6) for number in numbers]}")
    if classifier is None:
        return
    for row, likeliest in enumerate(classifier.likeliest(embeddings)):
        scores = ", ".join(f"{label} {probability:.4f}" for label, probability in likeliest)
        print(f"Test-{row}-scores: {scores} ({table.records.paths[row]})")
