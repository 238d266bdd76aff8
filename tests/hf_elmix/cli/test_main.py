"""``elmix``, as a user meets it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hf_elmix.cli.main import main


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
        (["cohorts", "nowhere"], "'nowhere' does not exist"),
        (["cohorts", "{training}", "--threshold", "2"], "--threshold to be between 0 and 1, but got 2"),
        (["calibration", "no/model"], "Expected rows to examine: --dataset_name or --file."),
        (["calibration", "no/model", "--file", "no.csv"], "Expected a file of rows, but 'no.csv' does not exist."),
        (["calibration", "no/model", "--file", "{training}/rows.csv"], "Cannot load the model 'no/model'"),
        (["escape", "{training}", "--probes", "few"], "--probes: expected a whole number, 2 or more, but got 'few'"),
        (["escape", "{training}", "--losses", "mmc"], "'mmc:scale=10' is more than a function of logits and labels"),
        (
            ["escape", "{training}", "--eigenvalues", "-1"],
            "expected a whole number, 0 to 30, but got '-1'",
        ),
        (["escape", "{training}", "--eigenvalues", "31"], "--eigenvalues: expected a whole number, 0 to 30"),
        (["calibration", "{training}", "--bins", "0"], "--bins: expected a whole number, 1 to 10000, but got '0'"),
        (["flow"], "Expected COMMAND to be one of compare, report, status, push, "),
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


def test_help_needs_neither_pytorch_nor_what_reads_records():
    code = "import sys; from hf_elmix.cli.main import main\n"
    code += "try: main(['escape', '--help'])\nfinally: print({'torch', 'pydantic'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()"
    assert "(default: ce el 0)" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["gradients", "--classes", "1000000"],
        ["gradients", "--classes", "1"],
        ["calibration", "run", "--bins", "1000000000"],
        ["escape", "run", "--seed", "99999999999999999999"],
        ["escape", "run", "--seed", "-1"],
        ["compare", "--max_seeds", "99999999999999999999"],
    ],
)
def test_numbers_that_take_all_memory_or_time_are_refused(words, capsys):
    assert main(words) == 2
    assert "expected a whole number" in capsys.readouterr().err
