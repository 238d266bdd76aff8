"""What the Markdown files say must run as written, and show what the package shows."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from glue_runs.__main__ import COMMANDS
from glue_runs.flags import GONE, DataArguments, FinetuneArguments, ModelArguments, parse
from hf_elmix.analysis.frames import read_scores
from hf_elmix.analysis.report import write_report
from hf_elmix.analysis.results import StudyResults
from hf_elmix.cli.base import make_parser
from hf_elmix.losses.schedules import MixingSchedule

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "hf_elmix" / "docs" / "pages"
MARKDOWN = [
    ROOT / "README.md",
    *(path for top in ("hf_elmix", "glue_runs") for path in sorted((ROOT / top).rglob("*.md"))),
]

# What the programs of a file must show, and the files they must leave.
SHOWN = {
    "README.md": ("'alpha'", "'loss_el'"),
    "loss.md": (),
    "calibration.md": ("temperature scaled",),
    "gradients.md": ("focal:gamma=2 0.058 1.129", "mpce 0.070 1.146"),
    "cohorts.md": ("correct_end  near  near_end  far  far_end",),
    "schedules.md": ("50 (1.0, 2.5)",),
    "study.md": ("2.883 runs",),
    "report.md": (),
    "escape.md": ("ratio to CE at equal noise", "M = 0.75", "Eigenvalue(value="),
    "mahalanobis.md": ("[{'label': 'LABEL_0', 'score': ",),
    "python.md": ("'eval_loss_el'", "Counter({'done': 4})", "All 4 runs have a score."),
}
LEFT = {
    "loss.md": "gradients.png",
    "gradients.md": "gradients_others.png",
    "cohorts.md": "cohorts.png",
    "escape.md": "escape.png",
    "calibration.md": "calibration.png",
    "python.md": "report/report.html",
}


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def same_picture(one: Path, other: Path) -> bool:
    """Up to what fonts and versions of Matplotlib change at the edges of lines."""
    first, second = (matplotlib.image.imread(path) for path in (one, other))
    return first.shape == second.shape and float(np.abs(first - second).mean()) < 0.01


@pytest.mark.parametrize("path", [path for path in MARKDOWN if blocks(path, "python")], ids=lambda path: path.name)
def test_programs_run(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for code in blocks(path, "python"):
        exec(compile(code, str(path), "exec"), {"__name__": "example"})
    shown = capsys.readouterr().out
    assert [text for text in SHOWN.get(path.name, ()) if text not in shown] == []
    left = LEFT.get(path.name, ".")
    assert (tmp_path / left).exists()
    if left.endswith(".png"):
        assert same_picture(tmp_path / left, PAGES / "figures" / left)


def test_files_that_have_programs():
    assert {path.name for path in MARKDOWN if blocks(path, "python")} >= set(SHOWN)


def test_the_swap_in_is_ten_lines():
    (code,) = blocks(ROOT / "README.md", "python")
    assert len([line for line in code.splitlines() if line and "import" not in line]) <= 10


def test_the_readme_is_under_200_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) < 200


def test_the_commands_for_a_fresh_machine():
    text = (ROOT / "README.md").read_text()
    for name, end in {
        "demo": ".venv/bin/glue-runs demo",
        "test": ".venv/bin/python -m pytest -n auto --dist loadfile",
    }.items():
        (command,) = re.findall(rf"<!-- command: {name} -->\n```bash\n(.*?)\n```", text)
        assert command.endswith(f"&& {end}")
        assert '"torch==2.13.*"' in command


def test_study_commands_are_understood():
    lines = [line.split("#")[0] for path in MARKDOWN for block in blocks(path, "bash") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith(("glue-runs study", "glue-runs report"))]
    assert len(commands) >= 4
    for words in commands:
        _, rest = make_parser("glue-runs", "", COMMANDS).parse_known_args(words)
        assert [word for word in rest if word.startswith("--")] in ([], ["--learning_rate"])


def test_finetune_commands_are_understood(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    text = "\n".join(block for path in MARKDOWN for block in blocks(path, "bash")).replace("\\\n", " ")
    commands = [shlex.split(words) for words in re.findall(r"^glue-runs finetune ([^#\n]*)", text, flags=re.MULTILINE)]
    assert len(commands) >= 6
    for words in commands:
        parse(words)


def test_the_flags_of_run_glue_are_what_the_table_says():
    """A flag is there, or refused with what to type instead."""
    rows = re.findall(r"^\| (`--.*?) \| ([\w ]+) \|", (PAGES / "run_glue.md").read_text(), flags=re.MULTILINE)
    kinds = (DataArguments, ModelArguments, FinetuneArguments)
    known = {field.name for kind in kinds for field in dataclasses.fields(kind)} | {"config"}
    assert len(rows) >= 20
    for flags, verdict in rows:
        names = re.findall(r"--(\w+)", flags.split("`,")[0] if "FILE" in flags else flags)
        assert names
        for name in names:
            assert (name in GONE, name in known) == (verdict == "left out", verdict != "left out"), name


def test_the_table_of_schedules_parses():
    rows = re.findall(r"^\| `([^`]+)` \|", (PAGES / "schedules.md").read_text(), flags=re.MULTILINE)
    schedules = [row for row in rows if row != "mixing"]
    assert len(schedules) >= 8
    for text in schedules:
        MixingSchedule.parse(text)


def test_the_report_that_is_explained(tmp_path):
    """The words and figures of the page are those of its table; hf_elmix/docs/README.md says how to make them."""
    said = write_report(StudyResults(read_scores(PAGES / "demo.csv")), tmp_path)
    text = " ".join((PAGES / "report.md").read_text().replace("\n> ", " ").split())
    verdict = said.split("\n\n")[0].splitlines()
    assert len(verdict) >= 5
    assert [sentence for sentence in verdict if sentence not in text] == []
    for name in ("profile", "differences", "ranks"):
        assert same_picture(tmp_path / "figures" / f"{name}.png", PAGES / "figures" / f"{name}.png"), name


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target
