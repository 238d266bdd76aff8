"""``elmix``, as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, log_loss

from hf_elmix.cli.main import main
from hf_elmix.diagnostics import calibration
from hf_elmix.diagnostics.calibration import temperature_scaled
from hf_elmix.diagnostics.escape import escape, to_text
from hf_elmix.predictions.predict import predict
from hf_elmix.predictions.records import FILE, Predictions, write_predictions
from hf_elmix.study.store import RECORD
from hf_elmix.text.checkpoint import Rows, open_checkpoint


def cells(text: str) -> dict[str, list[str]]:
    """The rows of the printed table by their first cell."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in lines}


@pytest.fixture
def training(tmp_path):
    """What a training of four rows left: at epoch 1 one is right, one near and two are far."""
    p_true, right = [[0.9, 0.4, 0.1, 0.1], [0.9, 0.7, 0.6, 0.2]], [[1, 0, 0, 0], [1, 1, 1, 0]]
    seen = Predictions([3, 6], [1, 2], [0, 1, 0, 1], p_true, right, np.zeros((4, 2)))
    write_predictions(tmp_path / FILE, {"": seen})
    return tmp_path


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_gradients_are_drawn(tmp_path, capsys, kind):
    picture = tmp_path / f"fig1.{kind}"
    assert main(["gradients", "--mixing", "0-0.5", "--losses", "focal:gamma=2", "--out", str(picture)]) == 0
    assert picture.read_bytes().startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind])
    assert list(tmp_path.iterdir()) == [picture]
    assert str(picture) in capsys.readouterr().out


def test_the_curves_are_those_that_were_asked_for(tmp_path):
    picture = tmp_path / "fig1.svg"
    assert main(["gradients", "--mixing", "0,0.5", "--losses", "gce:q=0.7", "--out", str(picture)]) == 0
    drawn = picture.read_text()
    assert all(f"<!-- {name} -->" in drawn for name in ("F = 0", "F = 0.5", "gce:q=0.7"))
    assert "<!-- F = 0.1 -->" not in drawn


def test_cohorts_are_counted(training, capsys):
    assert main(["cohorts", str(training), "--out", str(training / "flow.png")]) == 0
    row = cells(capsys.readouterr().out)["1"]
    assert [cell.split(":")[0] for cell in row] == ["1 of 1", "1 of 1", "1 of 2"]
    assert main(["cohorts", str(training / FILE), "--threshold", "0.5"]) == 0
    assert [cell.split(":")[0] for cell in cells(capsys.readouterr().out)["1"]] == ["1 of 1", "0 of 0", "2 of 3"]


def test_calibration_of_a_run(kept_run, tmp_path, capsys):
    assert main(["calibration", str(kept_run), "--out", str(tmp_path / "reliability.png")]) == 0
    accuracy, _, _, _, nll, temperature = map(float, cells(capsys.readouterr().out)["as trained"])
    found = open_checkpoint(str(kept_run), Rows(), batch_size=2)
    seen = predict(found.model, found.loader)
    p = np.exp(seen.logits.astype(float))
    assert accuracy == pytest.approx(accuracy_score(seen.labels, p.argmax(-1)), abs=1e-4)
    assert nll == pytest.approx(log_loss(seen.labels, p / p.sum(-1, keepdims=True), labels=[0, 1, 2]), abs=1e-4)
    assert accuracy == pytest.approx(
        json.loads((kept_run / RECORD).read_text())["scores"]["matched_accuracy"]["last"], abs=1e-4
    )
    assert temperature == 1


def test_escape_of_a_run_is_that_of_its_training_rows(kept_run, tmp_path, capsys):
    words = ["--probes", "2", "--losses", "0,0.5", "--eigenvalues", "1", "--out", str(tmp_path / "escape.png")]
    assert main(["escape", str(kept_run), *words]) == 0
    said = capsys.readouterr().out
    found = open_checkpoint(str(kept_run), Rows(split="train"), batch_size=5)
    result = escape(found.model, found.loader, ["0,0.5"], probes=2, batch_size=4, progress=False)
    assert to_text(result) in said
    assert all(f"\n{phase}: largest eigenvalues" in said for phase in ("mix:0", "el"))
    assert (tmp_path / "escape.png").stat().st_size > 10_000


def test_escape_of_a_model_on_rows_of_a_file(kept_run, tmp_path, capsys):
    rows = {"one": ["a cat", "a dog", "music"], "two": ["b", "c", "d"], "label": ["neutral", "entailment", "neutral"]}
    pd.DataFrame(rows).to_csv(tmp_path / "mine.csv", index=False)
    words = ["--file", str(tmp_path / "mine.csv"), "--probes", "2", "--noise_batch_size", "1"]
    assert main(["escape", str(kept_run / "model"), *words]) == 0
    assert "batches of 1, 2 probes" in capsys.readouterr().out


def test_the_diagram_has_a_run_before_and_after_scaling(kept_run, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(calibration, "plot_reliability", lambda sets, ax, bins: (drawn.update(sets), ax)[1])
    assert main(["calibration", str(kept_run), "--out", str(tmp_path / "fit.png")]) == 0
    (logits, labels), (scaled, _) = drawn.values()
    assert list(drawn) == ["as trained", "temperature scaled"]
    np.testing.assert_allclose(scaled, temperature_scaled(logits, labels)[0])
    assert not np.allclose(scaled, logits, atol=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gradients", "--losses", "fokal"], "Did you mean 'focal"),
        (["gradients", "--losses", "cot"], "'cot'"),
        (
            ["gradients", "--out", "fig1.jpeg"],
            "--out: expected a file that ends in .png, .svg, .pdf, but got 'fig1.jpeg'",
        ),
        (
            ["gradients", "--out", "nowhere/fig1.png"],
            "--out: expected a file in a folder that exists, but got 'nowhere/fig1.png'",
        ),
        (["cohorts", "nowhere"], "there is no 'nowhere'"),
        (["cohorts", "{training}", "--threshold", "2"], "threshold between 0 and 1, but got 2"),
        (["calibration", "no/model"], "Cannot load the model 'no/model'"),
        (["calibration", "{training}"], "Cannot load the model"),
        (["escape", "{training}", "--probes", "few"], "--probes: expected a whole number, 2 or more, but got 'few'"),
        (["escape", "{training}", "--losses", "mmc"], "'mmc:scale=10' is more than a function of logits and labels"),
        (
            ["escape", "{training}", "--eigenvalues", "-1"],
            "expected a whole number, 0 to 30, but got '-1'",
        ),
        (["escape", "{training}", "--eigenvalues", "31"], "--eigenvalues: expected a whole number, 0 to 30"),
        (["calibration", "{training}", "--bins", "0"], "--bins: expected a whole number, 1 or more, but got '0'"),
        (["flow"], "Expected COMMAND to be one of report, status, push, gradients, "),
        (["calibraton"], "Did you mean 'calibration'?"),
        (["gradients", "--looses", "ce"], "Unknown argument '--looses'. Did you mean '--losses'?"),
        ([], "required: COMMAND"),
    ],
)
def test_mistakes_are_one_line(training, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main([word.format(training=training) for word in words]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("elmix: ")


def test_help_needs_no_pytorch():
    code = "import sys; from hf_elmix.cli.main import main\n"
    code += "try: main(['escape', '--help'])\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert "(default: ce el 0)" in done.stdout
