"""The runs of a study as a dataset for the Hugging Face Hub: Parquet files, and a card that says what was found."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import pandas as pd
from huggingface_hub import DatasetCardData

from hf_elmix.analysis.formats import markdown_table, markdown_text
from hf_elmix.analysis.plots import plot_profile
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sections.runs import shared_settings
from hf_elmix.analysis.sections.scores import score_table
from hf_elmix.analysis.sections.summary import verdict
from hf_elmix.hub.model_card import CARD, CITATION, MARK, drawn

__all__ = ["DATASET_MARK", "dataset_files"]

DATASET_MARK = {"holds": "the runs of a study"}
RUNS, CURVES, PICTURE = "runs.parquet", "curves.parquet", "profile.png"
COLUMNS = {
    "runs": "one row for each run: its key (`task`, `method`, `seed`), `status`, `score` (missing where a run has "
    "none), what it cost, every metric at the end of training, and the settings as JSON.",
    "curves": "one row for each number that was logged while a run trained: the run's key, `epoch`, `quantity` and "
    "`value`.",
}


def dataset_files(results: StudyResults, repo_id: str, commands: Sequence[str] = ()) -> dict[str, bytes]:
    """The files of the dataset, by name: runs, what was logged while they trained, card and figure.

    Args:
        results: The study.
        repo_id: Where it will be on the Hub.
        commands: What to type to have the runs done again.
    """
    tables = {RUNS: results.runs_df, CURVES: results.curves_df}
    files = {name: _parquet(table) for name, table in tables.items() if table is not None and len(table)}
    files[PICTURE] = drawn(lambda ax: plot_profile(results.profile, ax, bands=results.bands), (6.4, 4.2))
    return {**files, CARD: _card(results, repo_id, CURVES in files, commands).encode()}


def _parquet(table: pd.DataFrame) -> bytes:
    out = io.BytesIO()
    table.to_parquet(out, index=False)
    return out.getvalue()


def _card(results: StudyResults, repo_id: str, has_curves: bool, commands: Sequence[str]) -> str:
    name = repo_id.rpartition("/")[2]
    parts = {
        "": _about(results),
        "What was found": "\n".join(f"- {markdown_text(sentence)}" for sentence in verdict(results)),
        "Scores": _scores(results),
        "How to use it": _example(repo_id, has_curves),
        "Settings of all runs": _settings(results),
        "How to make it again": _code("bash", commands) if commands else "",
        "Citation": CITATION,
    }
    sections = [f"## {title}\n\n{text}" if title else text for title, text in parts.items() if text]
    metadata = _metadata(name, has_curves).to_yaml()
    return "\n\n".join([f"---\n{metadata}\n---", f"# {markdown_text(name)}", *sections]) + "\n"


def _metadata(name: str, has_curves: bool) -> DatasetCardData:
    configs: list[dict[str, object]] = [{"config_name": "runs", "data_files": RUNS, "default": True}]
    if has_curves:
        configs.append({"config_name": "curves", "data_files": CURVES})
    data = DatasetCardData(pretty_name=name, configs=configs, tags=["hf_elmix", "mixed-loss"])
    data[MARK] = dict(DATASET_MARK)
    return data


def _about(results: StudyResults) -> str:
    counts = {
        "task": results.scores.index.get_level_values(0).nunique(),
        "method": len(results.methods),
        "seed": results.runs_df["seed"].nunique(),
    }
    sizes = ", ".join(f"{count} {noun}{'s' if count != 1 else ''}" for noun, count in counts.items())
    return (
        f"The {len(results.runs_df)} runs of a study of the mixed loss of cross entropy and expectation loss by "
        f"hf\\_elmix: {sizes}."
    )


def _scores(results: StudyResults) -> str:
    table = score_table(results)
    cells = markdown_table(table.header, table.texts())
    return f"{markdown_text(table.caption)}\n\n{cells}\n![Performance profile]({PICTURE})"


def _example(repo_id: str, has_curves: bool) -> str:
    parts = {name: text for name, text in COLUMNS.items() if has_curves or name == "runs"}
    loads = [f'{name} = load_dataset("{repo_id}", "{name}", split="train").to_pandas()' for name in parts]
    code = _code("python", ["from datasets import load_dataset", "", *loads])
    return "\n".join([code, "", *(f"- `{name}`: {text}" for name, text in parts.items())])


def _code(language: str, lines: Sequence[str]) -> str:
    text = "\n".join(lines)
    fence = max([2, *(len(ticks) for ticks in re.findall("`+", text))]) * "`" + "`"
    return f"{fence}{language}\n{text}\n{fence}"


def _settings(results: StudyResults) -> str:
    """What all runs have in common."""
    shared = shared_settings(results.runs_df)
    return markdown_table(["name", "value"], [[name, value] for name, value in shared.items()]) if shared else ""
