"""What the READMEs say must run as written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from glue_runs.__main__ import _parser
from hf_elmix.schedules import MixingSchedule

ROOT = Path(__file__).parents[1]
PACKAGES = ("hf_elmix", "hf_elmix/study", "hf_elmix/analysis")
READMES = [ROOT / "README.md", *(ROOT / package / "README.md" for package in PACKAGES)]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.parent.name)
def test_examples_run(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    examples = blocks(path, "python")
    assert examples
    for code in examples:
        exec(compile(code, str(path), "exec"), {"__name__": "example"})
    shown = capsys.readouterr().out
    if path.parent.name == "study":
        assert "Counter({'done': 6})" in shown
    if path.parent == ROOT:
        assert "'alpha'" in shown
        assert "'loss_el'" in shown


def test_the_swap_in_is_ten_lines():
    (code,) = blocks(ROOT / "README.md", "python")
    assert len([line for line in code.splitlines() if line and "import" not in line]) <= 10


def test_the_commands_for_a_fresh_machine():
    text = (ROOT / "README.md").read_text()
    for name, end in {"demo": ".venv/bin/glue-runs demo", "test": ".venv/bin/python -m pytest"}.items():
        (command,) = re.findall(rf"<!-- command: {name} -->\n```bash\n(.*?)\n```", text)
        assert command.endswith(f"&& {end}")
        assert '"torch==2.13.*"' in command


def test_study_commands_are_understood():
    lines = [line.split("#")[0] for block in blocks(ROOT / "README.md", "bash") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith(("glue-runs study", "glue-runs report"))]
    assert len(commands) >= 3
    for words in commands:
        _, rest = _parser().parse_known_args(words)
        assert [word for word in rest if word.startswith("--")] in ([], ["--learning_rate"])


def test_the_table_of_schedules_parses():
    rows = re.findall(r"^\| `([^`]+)` \|", (ROOT / "hf_elmix" / "README.md").read_text(), flags=re.MULTILINE)
    schedules = [row for row in rows if row != "mixing"]
    assert len(schedules) >= 8
    for text in schedules:
        MixingSchedule.parse(text)


def test_links_lead_somewhere():
    for path in [*READMES, *(ROOT / "glue_runs").rglob("README.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            assert target.startswith("https://") or (path.parent / target).exists(), f"{path}: {target}"
