from __future__ import annotations

import json

import pytest

from hf_elmix.cli.compare import parse_methods
from hf_elmix.cli.main import main
from hf_elmix.errors import UsageError


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    lines = ["text,label", *["the film was superb,up", "the film was awful,down"] * 8]
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "numbers.csv").write_text("text,label\n" + "a film,0.5\na song,1.5\n" * 5)
    (tmp_path / "one.csv").write_text("text,label\n" + "a film,up\n" * 5)
    return tmp_path


def test_files_to_a_verdict(files, encoder, capsys):
    words = ["--train_file", "train.csv", "--test_file", "test.csv", "--model_name_or_path", encoder]
    words += ["--losses", "el", "--num_train_epochs", "1", "--max_seeds", "2"]
    assert main(["compare", *words, "--json"]) == 0
    shown = capsys.readouterr()
    verdict = json.loads(shown.out)
    assert verdict["baseline"] == "ce"
    assert [one["verdict"] for one in verdict["verdicts"]] == ["not yet"]
    assert (verdict["seeds"], verdict["stopped"], len(verdict["test"])) == (2, "max_seeds", 2)
    assert "12 train, 16 test, 4 validation rows (held out)" in shown.err
    assert main(["compare", *words]) == 0  # nothing is trained again
    said = capsys.readouterr().out
    assert said.startswith("It is not known yet whether EL is better or worse than CE (")
    assert "--max_seeds 2 is reached; a larger one continues." in said
    assert main(["status", "comparison"]) == 0
    assert "4 done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Expected --train_file or --dataset_name. Type one, such as --train_file mine.csv"),
        (["--test_file", "test.csv"], "Expected --train_file or --dataset_name"),
        (["--train_file", "train.csv", "--dataset_name", "x"], "Expected --train_file or --dataset_name"),
        (["--train_file", "nowhere.csv"], "'nowhere.csv' does not exist"),
        (["--train_file", "numbers.csv"], "Expected classes as labels of numbers, but got numbers"),
        (["--train_file", "one.csv"], "Expected two classes or more"),
        (["--train_file", "train.csv", "--losses", "focl"], "Unknown loss 'focl'"),
        (["--train_file", "train.csv", "--losses", "ce"], "Expected a method to compare with ce, but got none"),
        (["--train_file", "train.csv", "--margin", "0"], "Expected a margin above 0, but got 0.0"),
        (["--train_file", "train.csv", "--budget", "2 hours"], "Expected a duration such as 90s, 30m, 2h"),
        (["--train_file", "train.csv", "--baseline", "el"], "Expected the baseline to be one of ce, 0-0.5"),
        (
            ["--train_file", "train.csv", "--method", "wd:weight_deca=0.1"],
            "'--weight_deca'. Did you mean '--weight_decay'",
        ),
        (
            ["--train_file", "train.csv", "--method", "wd"],
            "Expected --method like 'wd:weight_decay=0.1', but got 'wd'",
        ),
        (["--train_file", "train.csv", "--sweep", "learning_rate"], "Expected --sweep like learning_rate=1e-5,2e-5"),
        (["--train_file", "train.csv", "--sweep", "learning_rate=a"], "invalid float value: 'a'"),
        (["--train_file", "train.csv", "--method", "no.yaml"], "Cannot read the arguments in 'no.yaml'"),
        (["--train_file", "train.csv", "--seeds", "3"], "--seeds"),
        (["--train_file", "train.csv", "--sweep", "loss=ce,el"], "Type --losses instead"),
        (
            ["--train_file", "train.csv", "--method", "a:loss=el,loss=0"],
            "Expected each argument once, but 'loss' is given twice",
        ),
        (
            ["--train_file", "train.csv", "--sweep", "learning_rate=1e-5,2e-5", "--learning_rate", "1e-4"],
            "Expected --learning_rate or --sweep learning_rate=…, but got both",
        ),
        (["--train_file", "train.csv", "--dataset_config_name", "x"], "--dataset_config_name needs --dataset_name"),
        (["--train_file", "train.csv", "--validation_split_name", "train"], "Expected other rows than those of train"),
        (["--train_file", "train.csv", "--test_split_name", "train"], "Expected other rows than those of train"),
        (["--train_file", "train.csv", "--text_column_names", "text,text"], "Expected each text column once"),
        (["--train_file", "train.csv", "--text_column_names", ","], "Expected --text_column_names to name a column"),
        (["--train_file", "train.csv", "--output_dir", ""], "Expected --output_dir to be a folder"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(files, encoder, capsys, words, message):
    assert main(["compare", "--model_name_or_path", encoder, *words]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("elmix: ")
    assert message in line
    assert not (files / "comparison").exists()


def described(*words: str, losses: tuple[str, ...] = (), sweeps: tuple[str, ...] = ()) -> list[tuple]:
    return [
        (method.name, str(method.loss), dict(method.arguments), [dict(one) for one in method.sweep])
        for method in parse_methods(losses, words, sweeps)
    ]


def test_methods_in_words():
    assert described("wd:weight_decay=0.1") == [("wd", "ce", {"weight_decay": 0.1}, [])]
    assert described("a:loss=focal:gamma=2,alpha=0.25,label_smoothing_factor=0.1") == [
        ("a", "focal:gamma=2,alpha=0.25", {"label_smoothing_factor": 0.1}, [])
    ]
    assert described("a:num_train_epochs=2,loss=gce:q=0.7,k=0.5") == [
        ("a", "gce:q=0.7,k=0.5", {"num_train_epochs": 2.0}, [])
    ]
    assert [name for name, *_ in described("wd:weight_decay=0.1", losses=("el", "el", "0"))] == ["el", "0", "wd"]


def test_sweeps_are_multiplied():
    (found,) = described(losses=("ce",), sweeps=("learning_rate=1e-5,2e-5", "num_train_epochs=1,2"))
    assert found[3] == [
        {"learning_rate": rate, "num_train_epochs": epochs} for rate in (1e-5, 2e-5) for epochs in (1.0, 2.0)
    ]


def test_methods_in_a_file(tmp_path):
    path = tmp_path / "methods.yaml"
    path.write_text(
        "wd: {weight_decay: 0.1}\nmixed: {loss: '0,0.5', learning_rate: 1.0e-4, gradient_checkpointing: true}\n"
    )
    assert described(str(path)) == [
        ("wd", "ce", {"weight_decay": 0.1}, []),
        ("mixed", "mix:0,0.5", {"learning_rate": 1e-4, "gradient_checkpointing": True}, []),
    ]
    bomb = "a: &a {x: 1}\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    for text, message in (
        ("wd: {weight_decay: 0.1}\nwd: {weight_decay: 0.2}\n", "it gives 'wd' 2 times"),
        (bomb, "it refers to a part of itself"),
        ("a: " + "[" * 20_000, "maximum recursion depth"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=message):
            described(str(path))
    path.write_text("wd: {run: 2020-01-01}\n")
    with pytest.raises(UsageError, match="Unknown argument '--run'"):
        described(str(path))
    path.write_text("- wd\n")
    with pytest.raises(UsageError, match="to map each method to its arguments, as in 'wd: {weight_decay: 0.1}'"):
        described(str(path))
