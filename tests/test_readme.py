"""The programs and commands of README and pages must run as written, and show what the text says they show."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shlex
from pathlib import Path

import pytest
from pictures import same_picture

from glue_runs.arguments import DataArguments, ModelArguments
from glue_runs.commands import COMMANDS as GLUE_RUNS
from glue_runs.flags import GONE, parse
from glue_runs.training_arguments import FinetuneArguments
from hf_elmix.analysis.frames import read_scores
from hf_elmix.analysis.report import write_report
from hf_elmix.analysis.results import StudyResults
from hf_elmix.cli.base import make_parser
from hf_elmix.cli.main import COMMANDS as ELMIX
from hf_elmix.losses.registry import parse_loss

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "hf_elmix" / "docs" / "pages"
MARKDOWN = [
    ROOT / "README.md",
    ROOT / ".github" / "CONTRIBUTING.md",
    *(path for top in ("hf_elmix", "glue_runs") for path in sorted((ROOT / top).rglob("*.md"))),
]
MARKDOWN = [path for path in MARKDOWN if path.parent.name != "templates"]

# What the programs of a file print, and the files they leave.
SHOWN = {
    "README.md": ("'alpha'", "'loss_el'"),
    "pages/quickstart.md": ("'eval_loss_el'",),
    "pages/losses.md": ("50 (1.0, 2.5)", "squared:power=1.5"),
    "pages/trainer.md": ("'loss_el'",),
    "pages/integrations.md": ("'loss_el'", "'eval_loss'", "'eval_mean_token_accuracy'"),
    "pages/large_vocab.md": ("'eval_loss_el'",),
    "pages/compare.md": ("{'wd': 'practically equal'}", "wd and CE are practically equal: "),
    "pages/study.md": ("Counter({'done': 4})", "All 4 runs have a score.", "1  0-0.5 "),
    "pages/shared_training.md": ("2.883 runs",),
    "pages/report.md": ("difference",),
    "pages/faq.md": (
        "Trainer: loss 4.40, gradient norm 4.95",
        "MixedLossTrainer: loss 1.10, gradient norm 1.24",
    ),
    "pages/loss.md": (),
    "pages/gradients.md": ("focal:gamma=2 0.058 1.129", "mpce 0.070 1.146"),
    "pages/cohorts.md": ("correct_end  near  near_end  far  far_end",),
    "pages/calibration.md": ("temperature scaled",),
    "pages/escape.md": ("ratio to CE at equal noise", "M = 0.75", "Eigenvalue(value="),
    "pages/mahalanobis.md": ("[{'label': 'LABEL_0', 'score': ",),
}
LEFT = {
    "pages/loss.md": "gradients.png",
    "pages/gradients.md": "gradients_others.png",
    "pages/cohorts.md": "cohorts.png",
    "pages/escape.md": "escape.png",
    "pages/calibration.md": "calibration.png",
    "pages/compare.md": "report/report.html",
    "pages/study.md": "report/report.html",
}


def name(path: Path) -> str:
    """The key of a file above."""
    return f"pages/{path.name}" if path.is_relative_to(PAGES) else str(path.relative_to(ROOT))


# The marks of tests that the README's command leaves out.
LEFT_OUT = ("slow", "ray", "hub", "browser")


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), flags=re.MULTILINE | re.DOTALL)


PROGRAMS = [
    pytest.param(path, marks=pytest.mark.slow)
    if path.name in ("compare.md", "study.md", "escape.md", "cohorts.md", "integrations.md")
    else path
    for path in MARKDOWN
    if blocks(path, "python")
]


@pytest.mark.parametrize("path", PROGRAMS, ids=name)
def test_programs_run(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    namespace = {"__name__": "example"}  # a program may continue the one above it
    for code in blocks(path, "python"):
        exec(compile(code, str(path), "exec"), namespace)
    shown = capsys.readouterr().out
    assert [text for text in SHOWN[name(path)] if text not in shown] == []
    left = LEFT.get(name(path), ".")
    assert (tmp_path / left).exists()
    if left.endswith(".png"):
        assert same_picture(tmp_path / left, PAGES / "figures" / left)


def test_files_that_have_programs():
    assert {name(path) for path in MARKDOWN if blocks(path, "python")} == set(SHOWN)


def test_the_swap_in_is_ten_lines():
    (code,) = blocks(ROOT / "README.md", "python")
    assert len([line for line in code.splitlines() if line and "import" not in line]) <= 10


def test_the_readme_is_under_200_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) < 200


def test_the_commands_for_a_fresh_machine():
    text = (ROOT / "README.md").read_text()
    for mark, end in {
        "demo": ".venv/bin/glue-runs demo",
        "test": f'.venv/bin/python -m pytest -n auto --dist loadfile -m "not {" and not ".join(LEFT_OUT)}"',
    }.items():
        (command,) = re.findall(rf"<!-- command: {mark} -->\n```bash\n(.*?)\n```", text)
        assert command.endswith(f"&& {end}")
        assert '"torch==2.13.*"' in command


def test_no_advice_installs_from_an_index_what_no_index_has():
    sources = [*MARKDOWN, *(path for top in ("hf_elmix", "glue_runs") for path in (ROOT / top).rglob("*.py"))]
    advice = [line for path in sources for line in path.read_text().splitlines() if "pip install" in line]
    assert len(advice) >= 8
    assert not [line for line in advice if re.search(r"pip install .*hf[-_]elmix(\[|'|\"|$)", line)]


def test_ci_runs_what_the_quick_tests_leave_out():
    assert f'-m "{" or ".join(LEFT_OUT)}"' in (ROOT / ".ci" / "run").read_text()


def test_commands_are_understood():
    parsers = {"glue-runs": make_parser("glue-runs", "", GLUE_RUNS), "elmix": make_parser("elmix", "", ELMIX)}
    lines = [line for path in MARKDOWN for block in blocks(path, "bash") for line in block.splitlines()]
    lines = [line for line in lines if re.match(r"(glue-runs|elmix) (?!finetune)", line)]
    commands = [shlex.split(line, comments=True) for line in lines]
    assert {tuple(words[:2]) for words in commands} >= {
        *(("glue-runs", name) for name in GLUE_RUNS if name != "finetune"),
        *(("elmix", name) for name in ("compare", "report", "gradients", "cohorts", "calibration", "escape")),
    }
    for program, *words in commands:
        args, rest = parsers[program].parse_known_args(words)
        flags = ("--learning_rate", "--bf16", "--num_train_epochs")
        assert not rest or (args.command.more and rest[0] in flags), words


def test_finetune_commands_are_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)
    text = "\n".join(block for path in MARKDOWN for block in blocks(path, "bash")).replace("\\\n", " ")
    commands = [shlex.split(words) for words in re.findall(r"^glue-runs finetune ([^#\n]*)", text, flags=re.MULTILINE)]
    assert len(commands) >= 6
    for words in commands:
        for flag, value in itertools.pairwise(words):
            if flag.endswith("_file"):
                Path(value).touch()
        parse([word for word in words if word != "--bf16"])  # which needs a GPU


# The flags that the examples of Transformers (the main branch; 4.20 for run_xnli) add to those of the Trainer.
SCRIPTS = {
    "run_glue": "task_name dataset_name dataset_config_name max_seq_length overwrite_cache pad_to_max_length "
    "max_train_samples max_eval_samples max_predict_samples train_file validation_file test_file model_name_or_path "
    "config_name tokenizer_name cache_dir use_fast_tokenizer model_revision token trust_remote_code use_auth_token "
    "ignore_mismatched_sizes",
    "run_classification": "do_regression text_column_names text_column_delimiter train_split_name metric_name "
    "validation_split_name test_split_name remove_splits remove_columns label_column_name preprocessing_num_workers "
    "shuffle_train_dataset shuffle_seed",
    "run_xnli": "language train_language do_lower_case server_ip server_port",
}


def test_the_flags_of_run_glue_are_what_the_table_says():
    """A flag exists, or its error says what to use instead."""
    rows = re.findall(r"^\| (`--.*?) \| ([\w ]+) \|", (PAGES / "run_glue.md").read_text(), flags=re.MULTILINE)
    kinds = (DataArguments, ModelArguments, FinetuneArguments)
    known = {field.name for kind in kinds for field in dataclasses.fields(kind)} | {"config"}
    listed = {name for flags, _ in rows for name in re.findall(r"--(\w+)", flags)}
    assert {name for flags in SCRIPTS.values() for name in flags.split()} <= listed
    for flags, verdict in rows:
        names = re.findall(r"--(\w+)", flags.split("`,")[0] if "FILE" in flags else flags)
        assert names
        for flag in names:
            assert (flag in GONE, flag in known) == (verdict == "left out", verdict != "left out"), flag


def test_the_tables_of_schedules_and_losses_parse():
    rows = re.findall(r"^\| `([^`]+)` \|", (PAGES / "losses.md").read_text(), flags=re.MULTILINE)
    assert len(rows) >= 20
    for spec in rows:
        parse_loss(spec)


def test_the_architecture_names_every_module():
    """A folder's row names its modules; those of commands and of the demo's rows are left out."""
    rows = dict(re.findall(r"^\| `(\S+)/` \| (.*) \|$", (PAGES / "architecture.md").read_text(), flags=re.MULTILINE))
    for top in ("hf_elmix", "glue_runs"):
        for path in (ROOT / top).rglob("*.py"):
            folder = str(path.parent.relative_to(ROOT))
            if not path.stem.startswith("_") and folder not in (
                "hf_elmix",
                "hf_elmix/docs",
                "hf_elmix/cli",
                "glue_runs/pocket",
            ):
                assert f"`{path.stem}`" in rows[folder], path
    for folder, text in rows.items():
        for name in re.findall(r"`([a-z_]+)`", re.sub(r"\([^)]*\)", "", text)):
            assert (ROOT / folder / name).exists() or (ROOT / folder / f"{name}.py").exists(), f"{folder}/{name}"


def test_the_report_that_is_explained(tmp_path):
    """The page quotes the report of its table; hf_elmix/docs/README.md says how to remake both."""
    said = write_report(StudyResults(read_scores(PAGES / "demo.csv")), tmp_path)
    text = " ".join((PAGES / "report.md").read_text().replace("\n> ", " ").split())
    verdict = said.split("\n\n")[0].splitlines()
    assert len(verdict) >= 5
    assert [sentence for sentence in verdict if sentence not in text] == []
    for figure in ("profile", "differences", "ranks"):
        assert same_picture(tmp_path / "figures" / f"{figure}.png", PAGES / "figures" / f"{figure}.png"), figure


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_anchors_lead_somewhere():
    """As GitHub and the site make them of headings: lower case, words joined with hyphens."""

    def anchors(path: Path) -> set[str]:
        headings = re.findall(r"^#+ (.*)$", path.read_text(), flags=re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}

    for path in MARKDOWN:
        for target, anchor in re.findall(r"\]\(([^)#:]*\.md)?#([^)]+)\)", path.read_text()):
            assert anchor in anchors(path.parent / target if target else path), f"{path.name}: {target}#{anchor}"
