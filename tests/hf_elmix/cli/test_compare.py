from __future__ import annotations

import json

import pytest
from datasets import Dataset
from PIL import Image

from hf_elmix.cli.main import main


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    lines = ["text,label", *["the film was superb,up", "the film was awful,down"] * 8]
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "numbers.csv").write_text("text,label\n" + "a film,0.5\na song,1.5\n" * 5)
    numbers = [f"{k},{k % 7},{k % 2}" for k in range(40)]
    (tmp_path / "table.csv").write_text("\n".join(["age,size,label", *numbers]) + "\n")
    images = {"image": [Image.new("RGB", (8, 8), (row, 0, 0)) for row in range(20)], "label": [0, 1] * 10}
    Dataset.from_dict(images).to_parquet(tmp_path / "images.parquet")
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
    assert "train: text from text; 12 train, 4 validation (held out), 16 test rows" in shown.err
    assert "Training: learning_rate 0.0005, num_train_epochs 1.0, " in shown.err
    assert main(["compare", *words]) == 0  # nothing is trained again
    said = capsys.readouterr().out
    assert "On the 16 test rows, which played no part in them: CE " in said
    advice = "Stay with CE for now: no other method is known to be better yet."
    assert said.startswith(f"{advice}\nIt is not known yet whether EL is better or worse than CE (")
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
        (
            ["--train_file", "train.csv", "--losses", "mix:0-0.5", "0-0.5"],
            "'mix:0-0.5' and '0-0.5' have the same loss (mix:0-0.5) and the same arguments. Leave one out.",
        ),
        (["--train_file", "train.csv", "--method", "wd:weight_decay=0"], "'ce' and 'wd' have the same loss (ce)"),
        (
            ["--train_file", "images.parquet", "--executor", "stacked"],
            "--executor stacked takes tables and text, but images is images",
        ),
        (["--train_file", "table.csv"], "Expected --model_name_or_path to be linear or hidden for a table"),
        (["--train_file", "table.csv", "--max_seq_length", "9"], "--max_seq_length has no effect here: table is a ta"),
        (
            ["--train_file", "table.csv", "--model_name_or_path", "linear", "--method", "a:adam_beta1=0.8"],
            "--adam_beta1 has no effect here: it needs an --optim with Adam",
        ),
        (
            ["--train_file", "table.csv", "--model_name_or_path", "linear", "--label_smoothing_factor", "0.1"],
            "Runs cannot be stacked with label_smoothing_factor=0.1. Type --executor local.",
        ),
        (["--train_file", "train.csv", "--losses", "ce"], "Expected a method to compare with ce, but got none"),
        (
            ["--train_file", "train.csv", "--losses", "cot"],
            "Cannot train train with cot: Expected three classes or more",
        ),
        (
            ["--train_file", "train.csv", "--test_file", "train.csv", "--test_split_name", "x"],
            "both name the test rows",
        ),
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
        (["--train_file", "train.csv", "--sweep", "learning_rate=a"], "learning_rate to be a number, but got 'a'"),
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


def test_a_table_to_a_verdict(files, capsys):
    words = ["--train_file", "table.csv", "--num_train_epochs", "2", "--max_seeds", "2"]
    assert main(["compare", *words, "--losses", "el"]) == 0
    shown = capsys.readouterr()
    assert "table: a table of 2 features (age, size); 32 train, 8 validation (held out) rows; label: 0, 1" in shown.err
    assert "Stopped after 2 seeds" in shown.out
    (record,) = [json.loads(path.read_text()) for path in (files / "comparison" / "table" / "el" / "seed1").glob("*")]
    assert record["provenance"]["stacked"] == 2
    # The same weights as one by one, so it may continue in another way.
    assert main(["compare", *words, "--losses", "el", "--executor", "local", "--max_seeds", "3"]) == 0
