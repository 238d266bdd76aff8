from __future__ import annotations

import json
import shutil

import pytest
from transformers import pipeline

from glue_runs.finetune import FinetuneArguments, finetune
from glue_runs.protocol import ARGUMENTS
from hf_elmix import UsageError

QUICK = ["--report_to", "none", "--disable_tqdm", "true", "--max_steps", "3", "--use_cpu"]


def words(glue, encoder, output, *more):
    return [
        "--task_name", "cola", "--dataset_name", glue("cola"), "--model_name_or_path", encoder,
        "--output_dir", str(output), *QUICK, *more,
    ]  # fmt: skip


def test_defaults_are_the_protocols(tmp_path):
    args = FinetuneArguments(str(tmp_path))
    assert {name: getattr(args, name) for name in ARGUMENTS} == ARGUMENTS
    assert args.mixing == "0-0.5"


def test_trains_evaluates_and_leaves_run_glues_files(glue, encoder, tmp_path):
    output = tmp_path / "out"
    assert finetune(words(glue, encoder, output, "--mixing", "0,0.5", "--logging_steps", "1")) == 0
    results = json.loads((output / "all_results.json").read_text())
    assert results["eval_accuracy"] == json.loads((output / "eval_results.json").read_text())["eval_accuracy"]
    assert {"eval_loss", "eval_loss_el", "eval_matthews_correlation", "train_loss"} <= results.keys()
    state = json.loads((output / "trainer_state.json").read_text())
    assert [log["beta"] for log in state["log_history"] if "beta" in log] == [1, 1, 1]
    answer = pipeline("text-classification", model=str(output))("the dog sleeps")[0]
    assert answer["label"] in ("unacceptable", "acceptable")


def test_only_evaluation(glue, encoder, tmp_path):
    assert finetune(words(glue, encoder, tmp_path / "out", "--do_eval")) == 0
    assert (tmp_path / "out/eval_results.json").exists()
    assert not (tmp_path / "out/train_results.json").exists()


def test_a_finished_run_is_not_written_over(glue, encoder, tmp_path):
    line = words(glue, encoder, tmp_path / "out")
    finetune(line)
    before = (tmp_path / "out/model.safetensors").read_bytes()
    for more in (["--seed", "3"], ["--do_eval"]):
        with pytest.raises(UsageError, match="holds a model or a finished run"):
            finetune([*line, *more])
    assert (tmp_path / "out/model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--mixing", "0-0.6"], "Did you mean '0-0.5'"),
        (["--task_name", "cloa"], "Did you mean 'cola'"),
        (["--learning_rat", "1"], "learning_rat"),
        (["--resume_from_checkpoint", "nosuch"], "'nosuch' is none"),
        (["--report_to", "nope"], "nope"),
        (["--per_device_train_batch_size", "0"], "1 or more, but got 0"),
        (["--seed", "-1"], "0 or more, but got -1"),
        (["--max_seq_length", "0"], "1 or more, but got 0"),
        (["--metric_for_best_model", "eval_f1"], "loss, loss_el, accuracy, matthews_correlation"),
        (["--eval_strategy", "epoch", "--save_strategy", "steps", "--load_best_model_at_end"], "match"),
    ],
)
def test_mistakes(glue, encoder, tmp_path, more, message):
    with pytest.raises(UsageError, match=message):
        finetune(words(glue, encoder, tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()


def test_the_model_it_starts_from_is_not_written_over(glue, encoder, tmp_path):
    folder = shutil.copytree(encoder, tmp_path / "model")
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="holds a model"):
        finetune(words(glue, str(folder), folder))
    assert (folder / "model.safetensors").read_bytes() == before
    assert finetune([*words(glue, str(folder), folder), "--do_eval"]) == 0  # its results may lie beside it
