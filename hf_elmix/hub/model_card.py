"""The card of a model that was trained with the mixed loss: what the Hugging Face Hub shows beside it.

Pure functions from facts to text and a picture; `write_model_card` leaves both in a folder. Text from elsewhere (names
of models, datasets, tasks and labels) is escaped for Markdown and YAML.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib
from huggingface_hub import EvalResult, ModelCardData
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_elmix.analysis.formats import markdown_table, markdown_text
from hf_elmix.analysis.plots import plot_schedule
from hf_elmix.losses.registry import mixing_of
from hf_elmix.losses.schedules import MixingSchedule
from hf_elmix.losses.weights import focus_of
from hf_elmix.plotting import method_label

__all__ = [
    "CARD",
    "CITATION",
    "MARK",
    "PICTURE",
    "ModelFacts",
    "Origin",
    "Score",
    "card_files",
    "drawn",
    "model_mark",
    "write_model_card",
]

CARD, PICTURE = "README.md", "schedule.png"
MARK = "hf_elmix"  # the name in a card's metadata under which it says what the repository holds

# Title, authors, year and number as arXiv has them (https://arxiv.org/abs/2109.05635).
PAPER = "[Mixing between the Cross Entropy and the Expectation Loss Terms](https://arxiv.org/abs/2109.05635)"
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
LOSS = "α · CE + β · EL, where CE = −log p(y|x) is the cross entropy and EL = 1 − p(y|x) the expectation loss"


@dataclass(frozen=True)
class Origin:
    """A model or dataset that was used.

    Attributes:
        name: Its id on the Hub; of a local folder a short name, since a card does not say where folders lie.
        revision: Its commit on the Hub; None for a folder.
    """

    name: str
    revision: str | None = None

    @property
    def id(self) -> str | None:
        """Its id, if it is on the Hub."""
        return None if self.revision is None else self.name

    def link(self, below: str = "") -> str:
        """It in Markdown: a link to its place on the Hub, or its name."""
        text = markdown_text(self.name)
        if self.revision is None:
            return f"{text} (a local folder)"
        place = f"https://huggingface.co/{below}{quote(self.name)}"
        return f"[{text}]({place}) (commit {markdown_text(self.revision[:12])})"


@dataclass(frozen=True)
class Score:
    """A number that was measured.

    Attributes:
        split: The rows it was measured on.
        metric: Name of the metric, as on the Hub.
        value: The number.
    """

    split: str
    metric: str
    value: float


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a trained model; everything in its card comes from here.

    Attributes:
        task: Name of the task.
        base: The model that training started from.
        data: The dataset.
        config: Configuration of the dataset, if it has any.
        rows: Number of rows that were used of each split.
        columns: Columns of text that are fed to the model, one or two.
        labels: Names of the labels, in the order of their ids; none where the model answers with a number.
        loss: What it was trained with, as `parse_loss` reads it; None for the Trainer's own loss.
        scores: What was measured at the end of training.
        settings: Hyperparameters by name.
        versions: Versions of software by name, commit, device.
        notes: Sentences on the scores.
        pipeline: Task of `transformers.pipeline`.
        language: Language of the text, as the Hub abbreviates it.
    """

    task: str
    base: Origin
    data: Origin
    config: str | None
    rows: Mapping[str, int]
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    loss: str | None
    scores: tuple[Score, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    pipeline: str = "text-classification"
    language: str | None = None


def model_mark(facts: ModelFacts) -> dict[str, str]:
    """What a repository holds, in its card's metadata: a push does not replace what has another mark."""
    return {"model": facts.base.name, "task": facts.task, "loss": facts.loss or "none"}


def card_files(facts: ModelFacts, repo_id: str) -> dict[str, bytes]:
    """The card of a model, and the picture of its schedule, by file name.

    Args:
        facts: What is known of the model.
        repo_id: Where it will be on the Hub, for its name and the example; or the folder it is in.
    """
    files = {CARD: _card(facts, repo_id).encode()}
    schedule = _schedule(facts)
    if schedule is not None:
        files[PICTURE] = drawn(lambda ax: plot_schedule(schedule, ax), (6.4, 3.2))
    return files


def write_model_card(folder: str | Path, facts: ModelFacts, repo_id: str) -> None:
    """Write the card and its picture into the folder of a model; see `card_files`."""
    for name, content in card_files(facts, repo_id).items():
        temporary = Path(folder, f".{name}.new")
        temporary.write_bytes(content)
        os.replace(temporary, Path(folder, name))


def drawn(draw: Callable[[Axes], Axes], size: tuple[float, float]) -> bytes:
    """A figure as PNG: the same numbers give the same bytes.

    Args:
        draw: Draws on an axis.
        size: Width and height in inches.
    """
    out = io.BytesIO()
    with matplotlib.rc_context({"font.size": 10}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        figure.savefig(out, format="png", dpi=160)
    return out.getvalue()


def _card(facts: ModelFacts, repo_id: str) -> str:
    name = repo_id.rpartition("/")[2]
    parts = {
        "": _about(facts),
        "How to use it": _example(facts, repo_id),
        "The loss": _loss(facts),
        "Scores": _scores(facts),
        "Data": _data(facts),
        "Settings": _pairs(facts.settings),
        "Versions": _pairs(facts.versions),
        "Citation": f"The mixed loss and its schedules are those of {PAPER}:\n\n{CITATION}",
    }
    sections = [f"## {title}\n\n{text}" if title else text for title, text in parts.items() if text]
    return "\n\n".join([f"---\n{_metadata(facts, name).to_yaml()}\n---", f"# {markdown_text(name)}", *sections]) + "\n"


def _metadata(facts: ModelFacts, name: str) -> ModelCardData:
    data = ModelCardData(
        language=facts.language,
        library_name="transformers",
        pipeline_tag=facts.pipeline,
        base_model=facts.base.id,
        datasets=[facts.data.id] if facts.data.id else None,
        metrics=list(dict.fromkeys(score.metric for score in facts.scores)) or None,
        tags=["hf_elmix", "mixed-loss"],
        model_name=name,
        eval_results=[_result(facts, score) for score in facts.scores] or None,
    )
    data[MARK] = model_mark(facts)
    return data


def _result(facts: ModelFacts, score: Score) -> EvalResult:
    """A score as the Hub's ``model-index`` has it."""
    return EvalResult(
        task_type=facts.pipeline,
        dataset_type=facts.data.name,
        dataset_name=" ".join(filter(None, (facts.data.name, facts.config))),
        dataset_config=facts.config,
        dataset_split=score.split,
        dataset_revision=facts.data.revision,
        metric_type=score.metric,
        metric_value=score.value,
    )


def _about(facts: ModelFacts) -> str:
    answer = _listing(facts.labels, "or") if facts.labels else "a number"
    return (
        f"{facts.base.link()}, fine-tuned on the task {markdown_text(facts.task)} of {facts.data.link('datasets/')} "
        f"with {_how(facts)} by hf\\_elmix. It answers with {answer}."
    )


def _how(facts: ModelFacts) -> str:
    if facts.loss is None:
        return "the Trainer's own loss"
    kind = "the mixed loss under the regime" if _schedule(facts) else "the loss"
    return f"{kind} {markdown_text(method_label(facts.loss))}"


def _schedule(facts: ModelFacts) -> MixingSchedule | None:
    """The weights of the mixed loss over training, where that is the loss."""
    mixing = mixing_of(facts.loss or "")
    return None if mixing is None else MixingSchedule.parse(mixing)


def _listing(words: Iterable[str], last: str) -> str:
    *first, end = map(markdown_text, words)
    return f"{', '.join(first)} {last} {end}" if first else end


def _example(facts: ModelFacts, repo_id: str) -> str:
    text = '"…"' if len(facts.columns) == 1 else '{"text": "…", "text_pair": "…"}'
    lines = [
        "```python",
        "from transformers import pipeline",
        "",
        f"classify = pipeline({json.dumps(facts.pipeline)}, model={json.dumps(repo_id)})",
        f"print(classify({text}))",
        "```",
    ]
    pair = f"\n\nThe text is {_listing(facts.columns, 'and the pair to it')} of the dataset."
    return "\n".join(lines) + (pair if len(facts.columns) == 2 else "")


def _loss(facts: ModelFacts) -> str:
    if facts.loss is None:
        own = "cross entropy" if facts.labels else "the mean squared error"
        return f"The model was trained with the loss that the Trainer takes by itself: {own}."
    schedule = _schedule(facts)
    if schedule is None:
        return f"The loss is `{facts.loss}`, as `hf_elmix.parse_loss` reads it."
    phases = schedule.phases
    ends = [*(f"{100 * float(phase.start):.4g} %" for phase in phases[1:]), "100 %"]
    rows = [
        [f"{100 * float(phase.start):.4g} %", end, *map(_number, (phase.alpha, phase.beta)), _number(focus)]
        for phase, end in zip(phases, ends, strict=True)
        for focus in [focus_of(float(phase.alpha), float(phase.beta))]
    ]
    table = markdown_table(["from", "to", "α", "β", "focus F"], rows)
    return (
        f"The loss is {LOSS}. Its gradient is largest for samples whose true label has the probability F. "
        f"`mixing={json.dumps(schedule.mixing)}` sets the weights over training:\n\n"
        f"![α, β and the focus over training]({PICTURE})\n\n{table}".rstrip()
    )


def _scores(facts: ModelFacts) -> str:
    """What was measured, to four digits; the metadata has all of them."""
    if not facts.scores:
        return ""
    rows = [[score.split, score.metric, f"{score.value:.4f}"] for score in facts.scores]
    table = markdown_table(["split", "metric", "value"], rows)
    said = [f"Measured at the end of training.\n\n{table}", *map(markdown_text, facts.notes)]
    return "\n".join(said).rstrip()


def _data(facts: ModelFacts) -> str:
    rows = markdown_table(["split", "rows"], [[split, str(count)] for split, count in facts.rows.items()])
    config = f", configuration {markdown_text(facts.config)}" if facts.config else ""
    return f"{facts.data.link('datasets/')}{config}.\n\n{rows}".rstrip()


def _pairs(values: Mapping[str, Any]) -> str:
    """A table of names and values."""
    rows = [
        [name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)]
        for name, value in values.items()
    ]
    return markdown_table(["name", "value"], rows).rstrip() if rows else ""


def _number(value: Any) -> str:
    return f"{float(value):.4g}"
