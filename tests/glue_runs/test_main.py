"""The command line, as a user meets it."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from glue_runs.commands import main
from hf_elmix.predictions.records import read_predictions

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
BAR = re.compile(r"\d+%\||examples \[|ba/s")  # a progress bar of `datasets`, not a message
COMMAND = [sys.executable, "-m", "glue_runs"]


def study(folder: str, encoder: str, output: Path, *more: str) -> list[str]:
    words = ["--output_dir", str(output), "--tasks", "cola", "--seeds", "0", "1", "--dataset_name", folder]
    fast = ["--max_steps", "2", "--use_cpu", "--learning_rate", "0.01"]
    return ["study", *words, "--model_name_or_path", encoder, *fast, *more]


def records(folder: Path) -> dict[str, dict]:
    return {str(path.relative_to(folder)): json.loads(path.read_text()) for path in folder.rglob("record.json")}


@pytest.mark.slow
def test_a_study_and_its_report(glue, encoder, tmp_path, capfd):
    runs, folder = tmp_path / "runs", glue("cola")
    assert main(study(folder, encoder, runs)) == 0
    shown = capfd.readouterr()
    assert "8 done" in shown.out
    assert "cola 0-0.5 seed 1: done, accuracy" in shown.out + shown.err
    expected = {f"cola/{mixing}/seed{seed}/record.json" for mixing in ("ce", "0", "0,0.5", "0-0.5") for seed in (0, 1)}
    assert set(records(runs)) == expected
    # Everything else that training might leave would only be in the way.
    left = {path.name for path in runs.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert left == {"record.json", "study.json"}
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("record.json")}
    assert main(study(folder, encoder, runs)) == 0
    assert before == {path: path.stat().st_mtime_ns for path in runs.rglob("record.json")}  # nothing done again
    capfd.readouterr()
    assert main(["report", str(runs)]) == 0
    assert "| cola |" in capfd.readouterr().out
    files = {".files", "report.html", "tables.md", "tables.tex", "figures", "data"}
    assert {path.name for path in (runs / "report").iterdir()} == files
    page = (runs / "report" / "report.html").read_text()
    assert html.escape(shlex.join(["glue-runs", *study(folder, encoder, runs)])) in page
    assert f"glue-runs report {runs}" in page
    assert main(["report", str(runs), "--baseline", "0", "--output_dir", str(tmp_path / "other")]) == 0
    assert "CE is not significantly different from F = 0 (constant):" in capfd.readouterr().out
    assert (
        f"glue-runs report {runs} --baseline 0 --output_dir {tmp_path / 'other'}"
        in (tmp_path / "other" / "report.html").read_text()
    )


def test_methods_of_one_seed_are_the_same_training_until_they_differ(glue, encoder, tmp_path):
    """F=0 and F=0,0.5 share all but the last 5 % of training, so with two steps they are one and the same."""
    assert main(study(glue("cola"), encoder, tmp_path / "runs", "--mixings", "0", "0,0.5", "ce")) == 0
    found = records(tmp_path / "runs")
    losses = {name.removesuffix("/record.json"): run["scores"]["loss"] for name, run in found.items()}
    assert losses["cola/0/seed0"] == losses["cola/0,0.5/seed0"]
    assert losses["cola/0/seed0"] != losses["cola/0/seed1"]
    assert losses["cola/0/seed0"] != losses["cola/ce/seed0"]


@pytest.mark.slow
def test_sharing_changes_nothing_but_the_cost(glue, encoder, tmp_path):
    folder, runs = glue("cola"), {}
    for name, more in {"shared": [], "unshared": ["--no_sharing"]}.items():
        assert main(study(folder, encoder, tmp_path / name, "--max_steps", "40", "--seeds", "0", *more)) == 0
        runs[name] = records(tmp_path / name)
    for path, record in runs["unshared"].items():
        shared = runs["shared"][path]
        assert shared["scores"] == record["scores"]
        assert shared["training"] == record["training"]
        assert record["cost"]["steps_trained"] == 40
        assert shared["cost"]["steps_trained"] + shared["cost"]["steps_inherited"] == 40
    # CE; the first 7 steps of the three others; 31 and 33 more; the last 2 of F=0 and F=0,0.5.
    assert sum(record["cost"]["steps_trained"] for record in runs["shared"].values()) == 40 + 7 + 31 + 2 + 2 + 33


def test_kept_models_load_and_are_those_that_were_scored(glue, encoder, good_rows, tmp_path):
    from transformers import AutoTokenizer, pipeline

    rows = good_rows("cola")
    runs = tmp_path / "runs"
    words = study(glue("cola", train=rows, validation=rows), encoder, runs, "--mixings", "ce", "0")
    assert main([*words, "--keep", "models", "--cohorts"]) == 0
    for path, record in records(runs).items():
        folder = (runs / path).parent / "model"
        assert {file.suffix for file in folder.iterdir()} <= {".json", ".safetensors", ".txt"}
        # Without a tokenizer of its own, one that knows no word is loaded.
        assert AutoTokenizer.from_pretrained(folder).get_vocab() == AutoTokenizer.from_pretrained(encoder).get_vocab()
        classify = pipeline("text-classification", str(folder), device="cpu")
        said = [answer["label"] for answer in classify([row["sentence"] for row in rows])]
        right = [said[k] == ("unacceptable", "acceptable")[row["label"]] for k, row in enumerate(rows)]
        assert read_predictions(folder.parent)[""].correct[-1].tolist() == right
        assert record["scores"]["accuracy"]["last"] == pytest.approx(sum(right) / len(right))


def test_overwriting_is_asked_for_and_leaves_other_tasks_alone(glue, encoder, tmp_path):
    runs = tmp_path / "runs"
    assert main(study(glue("cola"), encoder, runs, "--mixings", "ce")) == 0
    assert main(study(glue("rte"), encoder, runs, "--tasks", "rte", "--mixings", "ce", "--seeds", "0")) == 0
    before = records(runs)
    again = study(glue("cola"), encoder, runs, "--mixings", "ce", "--weight_decay", "0.1", "--seeds", "0")
    assert main(again) == 2
    assert records(runs) == before
    assert main([*again, "--overwrite"]) == 0
    after = records(runs)
    assert set(after) == {"cola/ce/seed0/record.json", "rte/ce/seed0/record.json"}
    assert after["cola/ce/seed0/record.json"]["settings"]["arguments"]["weight_decay"] == 0.1
    assert after["rte/ce/seed0/record.json"] == before["rte/ce/seed0/record.json"]


@pytest.mark.parametrize("flag", ["--dataset_name", "--model_name_or_path"])
@pytest.mark.parametrize("inside", ["", "cola/data"])
@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_input_in_the_output_folder_is_refused_before_anything_is_made(
    glue, encoder, tmp_path, capsys, flag, inside, more
):
    runs = tmp_path / "runs"
    (runs / inside).mkdir(parents=True)
    (runs / inside / "mine.txt").write_text("mine")
    words = study(glue("cola"), encoder, runs)
    capsys.readouterr()
    assert main([*words, flag, str(runs / inside), *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{flag} outside of --output_dir" in line
    assert [path for path in runs.rglob("*") if path.is_file()] == [runs / inside / "mine.txt"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--keep", "all"], "'all'"),
        (["--workers", "0"], "1 or more, or auto, but got '0'"),
        (["--ray_address", "auto"], "--executor ray"),
        (["--engine", "ray"], "--engine cannot be used in a study: type --executor"),
        (["--prediction_loss_only"], "--prediction_loss_only cannot be used in a study"),
        (["--output_dir", "zz://bucket/runs"], "zz"),
        (["--padding", "none"], "'none'"),
        (["--tasks", "cloa"], "Did you mean 'cola'"),
        (["--mixings", "0-0.6"], "Did you mean '0-0.5'"),
        (["--dataset_name", "./nowhere"], "./nowhere is not a folder"),
        (["--model_name_or_path", "./nowhere"], "Cannot load the model './nowhere'"),
        (["--seed", "3"], "--seeds"),
        (["--learning_rat", "3"], "Did you mean '--learning_rate'?"),
        (["--max_train_samples", "0"], "1 or more, but got '0'"),
        (["--max_eval_samples", "-1"], "1 or more, but got '-1'"),
        (["--lr_scheduler_type", "steep"], "steep"),
        (["--seeds", "one"], "'one'"),
        (["stray"], "'stray'"),
        (["--hub_token", "hf_secret"], "cannot be used in a study"),
        (["--eval_strategy", "no"], "every epoch is evaluated"),
        (["--per_device_train_batch_size", "0"], "--per_device_train_batch_size to be 1 or more, but got 0"),
        (["--gradient_accumulation_steps", "-1"], "1 or more, but got -1"),
        (["--warmup_steps", "-1"], "--warmup_steps to be 0 or more, but got -1"),
        (["--weight_decay", "nan"], "--weight_decay to be a number, but got nan"),
        (["--adam_beta1", "1"], "--adam_beta1 to be below 1, but got 1"),
        (["--max_steps", "0"], "--max_steps to be 1 or more, but got 0"),
        (["--num_train_epochs", "2"], "--num_train_epochs has no effect here: it needs no --max_steps"),
        (["--seeds", "-1"], "0 to 4294967295, but got '-1'"),
        (["--seeds", "4294967296"], "0 to 4294967295, but got '4294967296'"),
        (["--max_seq_length", "9" * 30], "1 to 1000000"),
        (["--save_steps", "5"], "--save_steps cannot be used in a study: --keep says"),
        (["--lr_scheduler_kwargs", '{"x": 1}'], "unexpected keyword argument 'x'"),
        (["--optim", "lomo"], "the Trainer can use, but: "),
        (["--dataloader_persistent_workers"], "num_workers > 0"),
        (["--label_smoothing_factor", "0.1", "--losses", "focal"], "cannot be applied to the loss 'focal'"),
        (["--executor", "ray", "--ray_address", "127.0.0.1:1"], "No Ray cluster at '127.0.0.1:1'"),
        (["--dataloader_drop_last"], "Cannot train cola with ce: there are fewer rows than in a batch"),
        (["--metric_for_best_model", "f1"], "each task says which number is its score"),
        (["--executor", "ray", "--workers", "2"], "--workers needs --executor local"),
        (["--workers", "2", "--workers_per_gpu", "2"], "--workers_per_gpu that for each. Leave one of them out."),
        (["--executor", "ray", "--workers_per_gpu", "auto"], "--workers_per_gpu auto needs --executor local"),
        (["--output_dir", "/proc/runs"], "folder that can be written to, but got '/proc/runs'"),
        (["--output_dir", "a" * 300], "name too long"),
        (["--output_dir", "runs\udcff"], "Expected arguments in UTF-8"),
    ],
)
def test_mistakes_end_in_one_line_and_exit_code_2(glue, encoder, tmp_path, more, message, capsys):
    folder = glue("cola")
    capsys.readouterr()
    assert main(study(folder, encoder, tmp_path / "runs", *more)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line and not BAR.search(line)]
    assert line.startswith("glue-runs: ")
    assert message in line
    assert not (tmp_path / "runs").exists()


def test_bad_rows_leave_the_records_alone(glue, encoder, good_rows, tmp_path, capsys):
    runs = tmp_path / "runs"
    assert main(study(glue("cola"), encoder, runs, "--mixings", "ce")) == 0
    before, bad = records(runs), good_rows("cola")
    bad[3]["label"] = 9
    capsys.readouterr()
    assert main(study(glue("cola", train=bad, validation=good_rows("cola")), encoder, runs)) == 2
    error = capsys.readouterr().err
    assert "row 3 has 9" in error.splitlines()[-1]
    assert records(runs) == before


def test_other_settings_in_the_same_folder_are_refused(glue, encoder, tmp_path, capsys):
    runs, folder = tmp_path / "runs", glue("cola")
    assert main(study(folder, encoder, runs, "--mixings", "ce", "--seeds", "0")) == 0
    before = records(runs)
    assert main(study(folder, encoder, runs, "--mixings", "ce", "0", "--weight_decay", "0.1")) == 2
    assert "weight_decay was None and is now 0.1" in capsys.readouterr().err
    assert records(runs) == before


def test_other_rows_under_the_same_name_are_refused(glue, good_rows, encoder, tmp_path, capsys):
    runs, rows = tmp_path / "runs", good_rows("cola")
    assert main(study(glue("cola", train=rows, validation=rows), encoder, runs, "--mixings", "ce")) == 0
    turned = [{**row, "label": 1 - row["label"]} for row in rows]
    assert main(study(glue("cola", train=turned, validation=rows), encoder, runs, "--seeds", "7")) == 2
    assert "rows.train was" in capsys.readouterr().err


def test_a_failed_run_is_kept_said_and_done_again_only_when_asked(glue, encoder, tmp_path, capfd, monkeypatch):
    from transformers import Trainer

    runs = tmp_path / "runs"
    words = study(glue("cola"), encoder, runs, "--mixings", "ce")
    train, broken = Trainer.train, iter([True])

    def fail_once(self, *args, **kwargs):
        if next(broken, False):
            raise MemoryError("out of memory, for the test")
        return train(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "train", fail_once)
    assert main(words) == 1
    failed = records(runs)["cola/ce/seed0/record.json"]
    assert failed["status"] == "failed"
    assert "out of memory, for the test" in failed["error"]
    assert "--retry_failed" in capfd.readouterr().err
    assert main(words) == 1
    assert main([*words, "--retry_failed"]) == 0
    assert {record["status"] for record in records(runs).values()} == {"done"}


@pytest.mark.parametrize("method", ["train", "save_model", "log_metrics", "save_state", "evaluate"])
def test_an_error_of_training_saving_or_scoring_is_one_line(glue, encoder, tmp_path, capsys, monkeypatch, method):
    from transformers import Trainer

    def fail(*_, **__):
        raise RuntimeError("CUDA error: out of memory\nsecond line")

    monkeypatch.setattr(Trainer, method, fail)
    words = ["finetune", "--task_name", "cola", "--dataset_name", glue("cola"), "--model_name_or_path", encoder]
    assert main([*words, "--output_dir", str(tmp_path / "out"), "--max_steps", "1", "--use_cpu"]) == 1
    assert "glue-runs: RuntimeError: CUDA error: out of memory second line" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "words",
    [
        ["report", "nowhere"],
        ["report", "."],
        ["report", ".", "--what"],
        ["report", ".", "--baseline"],
        ["status"],
        ["status", "nowhere"],
        ["status", "."],
        ["finetune"],
        ["finetune", "--task_name", "cloa", "--output_dir", "out"],
        ["finetune", "--task_name", "cola", "--output_dir", "out", "--mixing", "cee"],
        ["finetune", "--task_name", "cola", "--output_dir", "out", "--num_train_epochs", "six"],
        ["x"],
        [],
    ],
)
def test_other_mistakes(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_a_folder(glue, encoder, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    folder = glue("cola")
    for words in (study(folder, encoder, tmp_path / "file"), ["report", str(tmp_path / "file")]):
        capsys.readouterr()
        assert main(words) == 2
        assert "is a file" in capsys.readouterr().err.splitlines()[-1]
    assert main(["finetune", "--task_name", "cola", "--output_dir", str(tmp_path / "file")]) == 2
    assert main(study(folder, encoder, tmp_path / "file" / "below")) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_help_needs_no_pytorch():
    code = "import sys; from glue_runs.commands import main\n"
    code += "try: main(['--help'])\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert "study" in done.stdout


def test_mistakes_that_need_no_pytorch_are_reported_without_it(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\nsuperb,1\n")
    mistakes = {
        "--output_dir out": "Expected rows",
        "--task_name cloa --output_dir out": "Did you mean 'cola'",
        "--task_name cola --output_dir out --mixing cee": "'cee'",
        "--task_name cola --output_dir out --loss focal --mixing 0,0.5": "Leave one out",
        "--task_name cola --output_dir out --max_seq_length 0": "--max_seq_length to be 1 or more",
        "--task_name cola --output_dir out --overwrite_output_dir": "does not exist here",
        "--task_name cola --output_dir s3://bucket/out": "s3://bucket/out",
        "--train_file a.csv --output_dir out": "--validation_file",
        "--train_file a.csv --validation_file b.csv --output_dir out": "'b.csv' does not exist",
        "--train_file a.csv --validation_file b.xls --output_dir out": "ends in .csv",
    }
    code = "import json, sys; from glue_runs.commands import main\n"
    code += "codes = [main(['finetune', *line.split()]) for line in json.loads(sys.argv[1])]\n"
    code += "print(codes, 'torch' in sys.modules)"
    command = [sys.executable, "-c", code, json.dumps([*mistakes])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == f"{[2] * len(mistakes)} False"
    for line, expected in zip(done.stderr.splitlines(), mistakes.values(), strict=True):
        assert expected in line


@pytest.mark.hub
@pytest.mark.slow
def test_real_rows_over_http(hub, encoder, tmp_path):
    """The same commands against a server that speaks the Hub's API, with real rows."""
    from hub_server import LocalHub

    with LocalHub([hub, tmp_path / "pushed"]) as server:
        home = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
        environment = {**ENVIRONMENT, **home, "HF_ENDPOINT": server.url}

        def study_of(*words: str) -> subprocess.CompletedProcess[str]:
            command = [*COMMAND, "study", "--output_dir", str(tmp_path / "runs"), "--model_name_or_path", encoder]
            return subprocess.run([*command, *words], capture_output=True, text=True, env=environment, timeout=300)

        limits = ["--max_train_samples", "64", "--max_eval_samples", "32", "--max_steps", "3", "--use_cpu"]
        done = study_of("--tasks", "mnli", "--seeds", "0", "--mixings", "0-0.5", *limits)
        assert done.returncode == 0, done.stderr
        record = records(tmp_path / "runs")["mnli/0-0.5/seed0/record.json"]
        rows = {"train": 64, "validation_matched": 32, "validation_mismatched": 32}
        assert record["provenance"]["data_rows"] == rows
        assert {"matched_accuracy", "mismatched_accuracy"} <= record["scores"].keys()
        unknown = study_of("--dataset_name", "nobody/nothing")
        assert unknown.returncode == 2
        assert "nobody/nothing" in unknown.stderr.splitlines()[-1]
        assert "Traceback" not in unknown.stderr
