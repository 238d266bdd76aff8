"""The runs of a study as a dataset on the Hugging Face Hub: Parquet files, a figure and a card with the findings."""

from __future__ import annotations

import re
from collections.abc import Sequence

from huggingface_hub import DatasetCard, DatasetCardData
from matplotlib.axes import Axes

from hf_elmix.analysis.formats import markdown_table, markdown_text
from hf_elmix.analysis.plots import plot_profile
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sections.runs import shared_settings
from hf_elmix.analysis.sections.scores import score_table
from hf_elmix.analysis.sections.summary import verdict
from hf_elmix.hub.model_card import CARD, CITATION, MARK, TEMPLATES, png, project

__all__ = ["DATASET_MARK", "dataset_files"]

DATASET_MARK = {"holds": "the runs of a study"}
PICTURE = "profile.png"


def dataset_files(
    results: StudyResults, repo_id: str, commands: Sequence[str] = (), licence: str | None = None
) -> dict[str, bytes]:
    """Return the files of the dataset by name: the runs, what was logged during training, the card and its figure.

    Args:
        results: The study.
        repo_id: The repository of the dataset.
        commands: The commands that made the study.
        licence: Of the dataset, as the Hub abbreviates it.
    """
    tables = {"runs": results.runs_df, "curves": results.curves_df}
    tables = {name: table for name, table in tables.items() if table is not None and len(table)}
    # Without the schema, categories are plain text to every reader.
    written = {name: table.to_parquet(index=False, store_schema=False) for name, table in tables.items()}
    return {
        **{f"{name}.parquet": data for name, data in written.items()},
        PICTURE: png(lambda ax: _profile(results, ax), (6.4, 4.2)),
        CARD: _card(results, repo_id, list(tables), commands, licence).encode(),
    }


def _profile(results: StudyResults, ax: Axes) -> Axes:
    """The profile of the methods that a report shows."""
    low, high = results.bands
    return plot_profile(results.profile[results.shown], ax, bands=(low[results.shown], high[results.shown]))


def _card(results: StudyResults, repo_id: str, tables: list[str], commands: Sequence[str], licence: str | None) -> str:
    name = repo_id.rpartition("/")[2]
    configs: list[dict[str, object]] = [
        {"config_name": table, "data_files": f"{table}.parquet", **({"default": True} if table == "runs" else {})}
        for table in tables
    ]
    data = DatasetCardData(pretty_name=name, configs=configs, license=licence, tags=["hf_elmix", "mixed-loss"])
    data[MARK] = dict(DATASET_MARK)
    counts = {
        "task": results.scores.index.get_level_values(0).nunique(),
        "method": len(results.methods),
        "seed": results.runs_df["seed"].nunique(),
    }
    scores = score_table(results)
    card = DatasetCard.from_template(
        data,
        str(TEMPLATES / "dataset_card.md"),
        md=markdown_text,
        project=project(),
        name=name,
        repo_id=repo_id,
        runs=len(results.runs_df),
        sizes=", ".join(f"{count} {noun}{'s' if count != 1 else ''}" for noun, count in counts.items()),
        findings=verdict(results),
        scores=scores,
        scores_table=markdown_table(scores.header, scores.texts()).rstrip(),
        picture=PICTURE,
        tables=tables,
        shared=shared_settings(results.runs_df),
        commands=commands,
        # A fence is longer than any run of backticks in the code.
        fence="`" * max(3, 1 + max(map(len, re.findall("`+", "\n".join(commands))), default=0)),
        citation=CITATION,
    )
    return f"{card}\n"
