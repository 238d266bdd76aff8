from __future__ import annotations

import pytest
import yaml

from glue_runs.finetune import finetune
from hf_elmix import UsageError

TOKEN = "hf_" + "secret" * 5


def words(glue, encoder, output, *more):
    return [
        "--task_name", "cola", "--dataset_name", glue("cola"), "--model_name_or_path", encoder, "--use_cpu",
        "--output_dir", str(output), "--disable_tqdm", "true", "--max_steps", "2", *more,
    ]  # fmt: skip


def card(folder):
    text = (folder / "README.md").read_text()
    return yaml.safe_load(text.split("---\n")[1]), text


def test_the_card_lies_beside_the_model(glue, encoder, tmp_path):
    more = ["--mixing", "0,0.5", "--weight_decay", "0.125", "--learning_rate", "3e-5", "--save_steps", "7"]
    finetune(words(glue, encoder, tmp_path / "out", *more))
    data, text = card(tmp_path / "out")
    results = data["model-index"][0]["results"]
    assert {metric["type"] for result in results for metric in result["metrics"]} == {
        "accuracy",
        "matthews_correlation",
    }
    assert (data["hf_elmix"]["task"], data["hf_elmix"]["loss"]) == ("cola", "mix:0,0.5")
    assert "| weight\\_decay " in text
    assert "0.125" in text
    assert "save\\_steps" not in text
    assert (tmp_path / "out/schedule.png").read_bytes().startswith(b"\x89PNG")


def test_the_scores_of_both_sets_of_mnli(glue, good_rows, encoder, tmp_path):
    line = words(glue, encoder, tmp_path / "out", "--mixing", "none")
    line[1], line[3] = "mnli", glue("mnli")
    finetune(line)
    data, text = card(tmp_path / "out")
    splits = [result["dataset"]["split"] for result in data["model-index"][0]["results"]]
    assert splits == ["validation_matched", "validation_mismatched"]
    assert not (tmp_path / "out/schedule.png").exists()
    assert "loss that the Trainer takes by itself" in text


def test_a_run_that_trains_nothing_writes_no_card(glue, encoder, tmp_path):
    finetune(words(glue, encoder, tmp_path / "out", "--do_eval"))
    assert not (tmp_path / "out/README.md").exists()


def test_a_model_is_pushed_once_without_pickle_or_token(glue, encoder, tmp_path, local_hub, capsys):
    more = ["--push_to_hub", "--hub_model_id", "org/mine", "--save_strategy", "steps", "--save_steps", "1"]
    assert finetune(words(glue, encoder, tmp_path / "out", *more)) == 0
    shown = capsys.readouterr()
    assert f"{local_hub.url}/org/mine: " in shown.out
    files = {path.name: path.read_bytes() for path in (local_hub.store.home / "models/org/mine").iterdir()}
    assert files.keys() >= {"model.safetensors", "config.json", "tokenizer.json", "README.md", "schedule.png"}
    assert not {name for name in files if name.endswith((".bin", ".pt", ".pth"))}
    assert len(local_hub.history()) == 2  # one that makes the repository, and one of all files
    written = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) > 10
    assert not [
        content
        for content in [*written, shown.out.encode(), shown.err.encode()]
        if local_hub.token.encode() in content
    ]


def test_a_token_that_was_given_is_in_no_file(glue, encoder, tmp_path):
    finetune(words(glue, encoder, tmp_path / "out", "--hub_token", TOKEN))
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert "training_args.bin" in written
    assert not [name for name, content in written.items() if TOKEN.encode() in content]


def test_what_cannot_be_pushed_is_known_before_training(glue, encoder, tmp_path, local_hub):
    with pytest.raises(UsageError, match="Add --do_train"):
        finetune(words(glue, encoder, tmp_path / "out", "--push_to_hub", "--do_eval"))
    taken = local_hub.store.home / "models/org/theirs"
    taken.mkdir(parents=True)
    (taken / "model.safetensors").write_text("theirs")
    with pytest.raises(UsageError, match="not made by hf_elmix"):
        finetune(words(glue, encoder, tmp_path / "out", "--push_to_hub", "--hub_model_id", "org/theirs"))
    assert not (tmp_path / "out").exists()
    assert not local_hub.history()
