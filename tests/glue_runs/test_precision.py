"""--precision, as a user meets it on a machine without a GPU."""

from __future__ import annotations

import json

import pytest

from glue_runs.commands import main
from glue_runs.flags import parse
from hf_elmix import UsageError
from hf_elmix.training import precision
from hf_elmix.training.precision import has_accelerator

pytestmark = pytest.mark.skipif(has_accelerator(), reason="an accelerator is used if there is one")


def study(folder: str, encoder: str, output, *more: str) -> int:
    words = ["--tasks", "cola", "--seeds", "0", "--mixings", "ce", "--max_steps", "2", "--dataset_name", folder]
    return main(["study", "--output_dir", str(output), *words, "--model_name_or_path", encoder, *more])


def test_a_study_keeps_its_precision(glue, encoder, tmp_path, capsys, monkeypatch):
    folder, runs = glue("cola"), tmp_path / "runs"
    capsys.readouterr()
    assert study(folder, encoder, runs, "--precision", "bf16") == 0
    assert capsys.readouterr().err.startswith("Precision: bf16\n")
    settings = json.loads((runs / "cola/ce/seed0/record.json").read_text())["settings"]
    assert settings["arguments"]["bf16"] is True
    assert "use_cpu" not in settings["arguments"]  # so that the study may go on where there is a GPU
    monkeypatch.setattr(precision, "product_rates", lambda: {"fp32": 2.0, "bf16": 1.0})
    assert study(folder, encoder, runs, "--precision", "auto", "--mixings", "ce", "0") == 0
    shown = capsys.readouterr()
    assert shown.err.startswith("Precision: bf16, as in the runs of this folder\n")
    assert "2 done" in shown.out
    assert study(folder, encoder, runs, "--precision", "fp32", "--seeds", "0", "1") == 2
    first, line = capsys.readouterr().err.splitlines()
    assert first == "Precision: fp32"
    assert "arguments.bf16 was True and is now None" in line
    assert study(folder, encoder, runs, "--precision", "auto", "--overwrite") == 0
    assert capsys.readouterr().err.startswith("Precision: fp32 (matrix products on this processor: ")


def test_two_precisions_are_refused(glue, encoder, tmp_path, capsys):
    folder, runs = glue("cola"), tmp_path / "runs"
    capsys.readouterr()
    assert study(folder, encoder, runs, "--precision", "fp32", "--bf16") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "Expected --precision or --bf16, but got both" in line
    assert not runs.exists()


WORDS = ["--output_dir", "unused", "--task_name", "cola"]


@pytest.mark.parametrize(
    ("more", "bf16"),
    [([], False), (["--precision", "fp32"], False), (["--precision", "bf16"], True), (["--bf16"], True)],
)
def test_finetune_takes_a_precision_without_a_gpu(more, bf16):
    _, _, args = parse([*WORDS, *more])
    assert args.bf16 is bf16


@pytest.mark.parametrize(("rates", "chosen"), [((1.0, 9.0), "bf16"), ((9.0, 1.0), "fp32")])
def test_finetune_measures_with_auto(rates, chosen, monkeypatch):
    monkeypatch.setattr(precision, "product_rates", lambda: dict(zip(("fp32", "bf16"), rates, strict=True)))
    _, _, args = parse([*WORDS, "--precision", "auto"])
    assert args.precision == chosen
    assert args.bf16 is (chosen == "bf16")
    assert args.precision_note.startswith(f"Precision: {chosen} (")


@pytest.mark.parametrize("other", ["--bf16", "--fp16"])
def test_finetune_takes_one_precision(other):
    with pytest.raises(UsageError, match="got two of them"):
        parse([*WORDS, "--precision", "auto", other])
