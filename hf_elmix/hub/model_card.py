"""The model card that the Hugging Face Hub shows: metadata, text from a template and a picture of the schedule.

The template escapes the names of models, datasets, tasks and labels for Markdown.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

import matplotlib
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from upath import UPath

from hf_elmix.analysis.formats import markdown_text
from hf_elmix.analysis.plots import plot_schedule
from hf_elmix.hub.facts import ModelFacts
from hf_elmix.losses.registry import mixing_of
from hf_elmix.losses.schedules import MixingSchedule
from hf_elmix.losses.weights import focus_of
from hf_elmix.plotting import notation
from hf_elmix.study.files import write_bytes
from hf_elmix.terminal import printable

__all__ = [
    "CARD",
    "CITATION",
    "MARK",
    "PICTURE",
    "TEMPLATES",
    "card_files",
    "model_mark",
    "png",
    "project",
    "write_model_card",
]

CARD, PICTURE = "README.md", "schedule.png"
MARK = "hf_elmix"  # the key in a card's metadata that says what the repository holds
TEMPLATES = Path(__file__).with_name("templates")

# Title, authors, year and number as on https://arxiv.org/abs/2109.05635.
CITATION = """```bibtex
@misc{battash2021mixing,
  title         = {Mixing between the Cross Entropy and the Expectation Loss Terms},
  author        = {Barak Battash and Lior Wolf and Tamir Hazan},
  year          = {2021},
  eprint        = {2109.05635},
  archivePrefix = {arXiv},
  primaryClass  = {cs.LG}
}
```"""


def model_mark(facts: ModelFacts) -> dict[str, str]:
    """Return what a repository holds, for the card's metadata: a push replaces only what has the same mark."""
    base = facts.origins.get("model")
    return {"model": base.name if base else "none", "task": facts.task, "loss": facts.settings["loss"] or "none"}


@cache
def project() -> str:
    """Name, version and licence of this package in Markdown, with a link to its repository if it is known."""
    try:
        about = metadata("hf-elmix")
    except PackageNotFoundError:  # not installed
        return "hf\\_elmix"
    urls = dict(text.split(", ", 1) for text in about.get_all("Project-URL", ()))
    name = f"[hf\\_elmix]({urls['Repository']})" if "Repository" in urls else "hf\\_elmix"
    return f"{name} {about['Version']} ({about['License-Expression']})"


def card_files(facts: ModelFacts, repo_id: str) -> dict[str, bytes]:
    """Return the card of a model and the picture of its schedule, if it has one, by file name.

    Args:
        facts: What the card says.
        repo_id: The repository, for the title and the example; or the model's folder.
    """
    mixing = mixing_of(facts.settings["loss"] or "")
    schedule = None if mixing is None else MixingSchedule.parse(mixing)
    if schedule is not None and facts.steps:
        schedule = schedule.trained(facts.steps)
    files = {CARD: _card(facts, repo_id, schedule).encode()}
    if schedule is not None:
        files[PICTURE] = png(lambda ax: plot_schedule(schedule, ax), (6.4, 3.2))
    return files


def write_model_card(folder: str | Path, facts: ModelFacts, repo_id: str) -> None:
    """Write the card and its picture into the folder of a model (see `card_files`)."""
    for name, content in card_files(facts, repo_id).items():
        write_bytes(UPath(folder, name), content)


def png(draw: Callable[[Axes], Axes], size: tuple[float, float]) -> bytes:
    """Draw a figure of a size in inches as PNG; the same numbers give the same bytes."""
    out = io.BytesIO()
    with matplotlib.rc_context({"font.size": 10}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        figure.savefig(out, format="png", dpi=160)
    return out.getvalue()


def _card(facts: ModelFacts, repo_id: str, schedule: MixingSchedule | None) -> str:
    name = repo_id.rpartition("/")[2]
    method = "the Trainer's own loss"
    if (loss := facts.settings["loss"]) is not None:
        label = notation(loss)
        method = f"the mixed loss (schedule {label})" if schedule else f"the loss {label}"
    card = ModelCard.from_template(
        _metadata(facts, name),
        str(TEMPLATES / "model_card.md"),
        md=markdown_text,
        project=project(),
        code=_code,
        name=name,
        repo_id=repo_id,
        facts=facts,
        base=facts.origins.get("model"),
        data=facts.origins.get("dataset"),
        text=facts.settings.get("text", {}),
        method=method,
        schedule=schedule,
        phases=_phases(schedule) if schedule else (),
        picture=PICTURE,
        settings=_plain(facts.hyperparameters),
        versions=_plain(facts.versions),
        citation=CITATION,
    )
    return f"{card}\n"


def _metadata(facts: ModelFacts, name: str) -> ModelCardData:
    """Return the metadata; its ``model-index`` holds the scores of text classifiers in full precision."""
    base, data = facts.origins.get("model"), facts.origins.get("dataset")
    pipeline = "text-classification" if facts.settings.get("text") else None
    results = [
        EvalResult(
            task_type=pipeline,
            dataset_type=data.name,
            dataset_name=" ".join(filter(None, (data.name, facts.config))),
            dataset_config=facts.config,
            dataset_split=facts.rows_of(score.split),
            dataset_revision=data.revision,
            metric_type=score.metric,
            metric_value=score.value,
        )
        for score in facts.scores
        if pipeline and data
    ]
    card_data = ModelCardData(
        library_name="transformers",
        pipeline_tag=pipeline,
        base_model=base.name if base and base.revision else None,
        datasets=[data.name] if data and data.revision else None,
        metrics=list(dict.fromkeys(score.metric for score in facts.scores)) or None,
        tags=["hf_elmix", "mixed-loss"],
        model_name=name,
        eval_results=results or None,
        license=facts.licence.get("license"),
        license_name=facts.licence.get("license_name"),
        license_link=facts.licence.get("license_link"),
    )
    card_data[MARK] = model_mark(facts)
    return card_data


def _code(text: str) -> str:
    """A text as code in a line of Markdown, which it cannot leave."""
    return f"`{printable(' '.join(text.split())).replace('`', chr(39))}`"


def _phases(schedule: MixingSchedule) -> list[list[str]]:
    """Return start, end, α, β and focus of each phase of a schedule."""
    starts = [f"{100 * float(phase.start):.4g} %" for phase in schedule.phases]
    rows = []
    for phase, start, end in zip(schedule.phases, starts, [*starts[1:], "100 %"], strict=True):
        alpha, beta = float(phase.alpha), float(phase.beta)
        rows.append([start, end, *(f"{value:.4g}" for value in (alpha, beta, focus_of(alpha, beta)))])
    return rows


def _plain(values: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in values.items()
    }
