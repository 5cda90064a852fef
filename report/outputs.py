"""Which files an evaluation writes, and the one that holds what each query found."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.files import check_folder, check_output, open_output, replace_json
from core.types import Positive
from data.records import Records
from embeddings.attention import Attention, check_attention
from embeddings.table import EmbeddingTable
from report.attention import draw_attention
from report.page import write_page
from report.page.projection import open_umap
from report.queries import draw_queries, evenly_spaced
from retrieval.metrics.evaluation import Evaluation
from retrieval.query_gallery import QueryGallery
from retrieval.results import RetrievalResults

# How each file may end.
SUFFIXES = {
    "save_embeddings": ".npz",
    "save_results": (".npz", ".json"),
    "picture": ".png",
    "attention": ".png",
    "report": ".html",
}


@dataclass(frozen=True)
class EvalOutputs:
    """What an evaluation writes beside its table of figures; None: it does not.

    Options:
        output_dir: folder of result.json (default: eval/ in the run's folder, else output/eval)
        save_embeddings: write the embeddings and the list's columns to this .npz
        save_results: write what each query found to this .npz or .json
        picture: write some queries with their five nearest to this .png
        attention: write where the network looked in these queries and their best hits to this .png; a report then
            shows it of its queries, too
        picture_queries: rows of a picture
        report: write figures, queries, a map and look-alikes as one page, this .html
        projection: of the report's map: pca or umap
        leaks_from: a list (or .npz), such as the train list, whose images to look for here
    """

    output_dir: str | None = None
    save_embeddings: str | None = None
    save_results: str | None = None
    picture: str | None = None
    attention: str | None = None
    picture_queries: Positive = 8
    report: str | None = None
    projection: Literal["pca", "umap"] = "pca"
    leaks_from: str | None = None

    def check(self, pretrained_model: str | None, runtime: str) -> None:
        """Raise InputError, before any work, for what cannot be written, and for a picture that cannot be made."""
        check_folder(self.result_folder(pretrained_model))
        for flag, suffixes in SUFFIXES.items():
            if getattr(self, flag) is not None:
                check_output(getattr(self, flag), suffixes)
        if self.attention:
            check_attention(runtime)
        if self.report and self.projection == "umap":
            open_umap()

    def open_files(self) -> dict[str, Path]:
        """The files that are asked for, {flag: path}; their folders are made.

        Raises InputError for one that cannot be written.
        """
        files = {}
        for flag, suffixes in SUFFIXES.items():
            path = getattr(self, flag)
            if path is not None:
                files[flag] = open_output(path, suffixes)
        return files

    def result_folder(self, pretrained_model: str | None) -> Path:
        """Where result.json goes: into the evaluated run, if it is one."""
        if self.output_dir:
            return Path(self.output_dir)
        run = Path(pretrained_model or "")
        if (run / "config.json").is_file():
            return run / "eval"
        return Path("output") / "eval"


def write_outputs(
    files: dict[str, Path],
    outputs: EvalOutputs,
    table: EmbeddingTable,
    evaluation: Evaluation,
    pretrained_model: str | None,
    leaks: EmbeddingTable | None,
    attention: Attention | None,
    verification: dict | None,
    notices: Sequence[str],
) -> None:
    """Write the files {flag: path} that are asked for.

    leaks: the embeddings of a list to look for leaks in. attention: of the model, where that is asked for.
    verification: same or not, as result.json has it, where that is. notices: sentences on the figures as a whole.
    """
    query_gallery = evaluation.query_gallery
    queries = evenly_spaced(len(query_gallery.query_rows), outputs.picture_queries)
    if "save_embeddings" in files:
        table.save(files["save_embeddings"])
    if "save_results" in files:
        save_results(files["save_results"], table.records, query_gallery, evaluation.results)
    if "picture" in files:
        draw_queries(table.records, query_gallery, queries, evaluation.results, files["picture"], evaluation.distance)
    if attention is not None:
        found, file = evaluation.results, files["attention"]
        draw_attention(attention, table, query_gallery, queries, found, file, evaluation.distance)
    if "report" in files:
        model_name = pretrained_model or "saved embeddings"
        page, kind = files["report"], outputs.projection
        write_page(page, evaluation, table, model_name, kind, leaks, attention, verification, notices)


def save_results(path: Path, records: Records, query_gallery: QueryGallery, results: RetrievalResults) -> None:
    """Write what each query found: .npz for RetrievalResults.load, .json with the paths that ids and queries number.

    Raises InputError where an .npz cannot be written.
    """
    if path.suffix == ".npz":
        results.save(path)
        return
    content = {
        "paths": records.paths.tolist(),
        "queries": query_gallery.query_rows.tolist(),
        "found": results.to_dicts(),
    }
    replace_json(path, content)
