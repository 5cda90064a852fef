"""Which files an evaluation writes, and the one that holds what each query found."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.files import replace_json
from core.types import Positive
from data.records import Records
from retrieval.query_gallery import QueryGallery
from retrieval.results import RetrievalResults


@dataclass(frozen=True)
class EvalOutputs:
    """What an evaluation writes beside its table of figures; None: it does not.

    Options:
        output_dir: folder of result.json (default: eval/ in the run's folder, else output/eval)
        save_embeddings: write the embeddings and the list's columns to this .npz
        save_results: write what each query found to this .npz or .json
        picture: write some queries with their five nearest to this .png
        picture_queries: rows of the picture
        report: write figures, queries, a map and look-alikes as one page, this .html
        projection: of the report's map: pca or umap
        leaks_from: a list (or .npz), such as the train list, whose images to look for here
    """

    output_dir: str | None = None
    save_embeddings: str | None = None
    save_results: str | None = None
    picture: str | None = None
    picture_queries: Positive = 8
    report: str | None = None
    projection: Literal["pca", "umap"] = "pca"
    leaks_from: str | None = None

    def result_folder(self, pretrained_model: str | None) -> Path:
        """Where result.json goes: into the evaluated run, if it is one."""
        if self.output_dir:
            return Path(self.output_dir)
        run = Path(pretrained_model or "")
        if (run / "config.json").is_file():
            return run / "eval"
        return Path("output") / "eval"


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
