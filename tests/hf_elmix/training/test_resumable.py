from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from hf_elmix import UsageError
from hf_elmix.training.resumable import (
    CheckedResume,
    RunSettings,
    changes,
    check_checkpoint,
    check_weights,
    is_half_written,
    settings_in,
)

SETTINGS = {"arguments": {"learning_rate": 1e-3, "loss": "ce"}, "rows": {"train": "a1"}, "path": Path("x")}
SIZE = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with the checkpoints of steps 1, 2 and 3."""
    folder = tmp_path_factory.mktemp("saved")
    rows = Dataset.from_dict({"input_ids": [[1, 2]] * 6, "labels": [0, 1] * 3})
    given = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3, "per_device_train_batch_size": 2}
    args = TrainingArguments(str(folder), report_to="none", use_cpu=True, **given)
    model = BertForSequenceClassification(BertConfig(**SIZE))
    Trainer(model, args, train_dataset=rows, callbacks=[RunSettings(SETTINGS)]).train()
    return folder


@pytest.fixture
def run(saved, tmp_path) -> Path:
    return shutil.copytree(saved, tmp_path / "run")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"param_groups": []}))


def objects(path: Path) -> None:
    """Content that only unpickling with code can read."""
    torch.save({"param_groups": [Path("x")]}, path)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def state_of(**values):
    return lambda path: path.write_text(json.dumps(values))


DAMAGE = [
    ("model.safetensors", Path.unlink, "it has no model.safetensors"),
    ("model.safetensors", cut, "its model.safetensors is damaged"),
    ("model.safetensors", emptied, "its model.safetensors is damaged"),
    ("optimizer.pt", Path.unlink, "it has no optimizer.pt"),
    ("optimizer.pt", cut, "its optimizer.pt cannot be read"),
    ("optimizer.pt", flip, "optimizer.pt"),
    ("optimizer.pt", emptied, "its optimizer.pt cannot be read"),
    ("optimizer.pt", pickled, "its optimizer.pt cannot be read"),
    ("optimizer.pt", objects, "its optimizer.pt cannot be read"),
    ("optimizer.pt", lambda path: torch.save({}, path), "its optimizer.pt is empty"),
    ("scheduler.pt", Path.unlink, "it has no scheduler.pt"),
    ("scheduler.pt", lambda path: torch.save({}, path), "its scheduler.pt is empty"),
    ("rng_state.pth", Path.unlink, "it has no rng_state.pth"),
    ("rng_state.pth", emptied, "its rng_state.pth cannot be read"),
    ("trainer_state.json", Path.unlink, "it has no trainer_state.json"),
    ("trainer_state.json", cut, "its trainer_state.json cannot be read"),
    ("trainer_state.json", emptied, "its trainer_state.json cannot be read"),
    ("trainer_state.json", state_of(), "its trainer_state.json says that no step was done"),
    ("config.json", cut, "its config.json cannot be read"),
    ("trainer_state.json", state_of(global_step=3, log_history=5), "its trainer_state.json cannot be read"),
    ("trainer_state.json", state_of(other=3), "its trainer_state.json cannot be read"),
    ("trainer_state.json", lambda path: path.write_text("[]"), "its trainer_state.json cannot be read"),
]


@pytest.mark.parametrize(("name", "damage", "reason"), DAMAGE)
def test_damaged_checkpoint_is_refused_with_the_reason_and_the_nearest_good_one(run, name, damage, reason):
    damage(run / "checkpoint-3" / name)
    with pytest.raises(UsageError) as caught:
        check_checkpoint(run / "checkpoint-3", SETTINGS)
    said = str(caught.value)
    assert said.startswith(f"Cannot continue from {str(run / 'checkpoint-3')!r}: ")
    assert reason in said
    assert said.endswith(f"--resume_from_checkpoint {run / 'checkpoint-2'}.")
    assert "\n" not in said
    assert is_half_written(run / "checkpoint-3") == (name == "trainer_state.json")


def test_a_state_without_that_of_the_control_is_refused(run):
    path = run / "checkpoint-3/trainer_state.json"
    path.write_text(path.read_text().replace('"TrainerControl"', '"Other"'))
    with pytest.raises(UsageError, match="its trainer_state.json has no TrainerControl. The nearest"):
        check_checkpoint(run / "checkpoint-3", SETTINGS)


def test_weights_that_are_not_finite_are_refused(run):
    path = run / "checkpoint-3/model.safetensors"
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[-1] = torch.nan
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(UsageError, match="its model.safetensors has weights that are not finite. The nearest"):
        check_checkpoint(run / "checkpoint-3", SETTINGS)


class Checked(CheckedResume, Trainer):
    pass


def moments(change):
    return lambda kept: [change(state) for state in kept["state"].values()]


UNFIT = [
    ("optimizer.pt", moments(lambda state: state.update(exp_avg=torch.zeros(3, 3))), r"exp_avg of .* is \(3, 3\)"),
    ("optimizer.pt", moments(lambda state: state["exp_avg"].fill_(torch.inf)), "exp_avg is not finite"),
    ("optimizer.pt", lambda kept: kept["state"].clear(), "no moments"),
    ("optimizer.pt", moments(lambda state: state.pop("exp_avg")), "no exp_avg"),
    ("optimizer.pt", lambda kept: kept["param_groups"][0].pop("betas"), "no betas"),
    ("optimizer.pt", lambda kept: kept["param_groups"].pop(), "number of parameter groups"),
    ("scheduler.pt", lambda kept: kept.pop("lr_lambdas"), "lr_lambdas"),
    ("scheduler.pt", lambda kept: kept.update(last_epoch=1), "at step 1, not 2"),
    ("scheduler.pt", lambda kept: kept.update(last_epoch="x"), "not all arguments"),
    ("scheduler.pt", lambda kept: kept.update(base_lrs=[9.0]), r"the rates \[9.0\]"),
]


@pytest.mark.parametrize(("name", "change", "reason"), UNFIT)
def test_the_state_of_another_optimizer_or_scheduler_is_refused(run, name, change, reason):
    path = run / "checkpoint-2" / name
    kept = torch.load(path, weights_only=True)
    change(kept)
    torch.save(kept, path)
    rows = Dataset.from_dict({"input_ids": [[1, 2]] * 6, "labels": [0, 1] * 3})
    args = TrainingArguments(str(run), max_steps=3, per_device_train_batch_size=2, report_to="none", use_cpu=True)
    trainer = Checked(BertForSequenceClassification(BertConfig(**SIZE)), args, train_dataset=rows)
    with pytest.raises(UsageError, match=f"is not that of this run .*{reason}.*another checkpoint, or start again"):
        trainer.train(resume_from_checkpoint=str(run / "checkpoint-2"))


KEPT = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "config.json"]


def exchanged(path: Path) -> None:
    shutil.copy(path.parent.with_name("checkpoint-1") / path.name, path)


def with_another_learning_rate(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    state["param_groups"][0]["lr"] += 1
    torch.save(state, path)


def with_another_loss(path: Path) -> None:
    path.write_text(path.read_text().replace('"loss":', '"lost":'))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.safetensors", flip),
        *((name, exchanged) for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")),
        ("optimizer.pt", with_another_learning_rate),
        ("trainer_state.json", with_another_loss),
        ("digests.json", cut),
        ("digests.json", lambda path: path.write_text("[" * 10**6)),
        ("digests.json", lambda path: path.write_text("null")),
    ],
)
def test_a_file_that_is_whole_but_not_the_one_that_was_saved_is_refused(run, name, change):
    change(run / "checkpoint-3" / name)
    with pytest.raises(UsageError) as caught:
        check_checkpoint(run / "checkpoint-3", SETTINGS)
    assert f"its {name} is not what was saved there. The nearest" in str(caught.value)
    assert str(caught.value).endswith(f"--resume_from_checkpoint {run / 'checkpoint-2'}.")


def test_every_file_of_a_checkpoint_has_its_blake2b_digest(saved):
    kept = json.loads((saved / "checkpoint-2" / "digests.json").read_text())
    assert {*KEPT} <= {*kept} == {path.name for path in (saved / "checkpoint-2").iterdir()} - {"digests.json"}
    for name, digest in kept.items():
        content = (saved / "checkpoint-2" / name).read_bytes()
        assert digest == hashlib.blake2b(content).hexdigest()[:32]


def test_the_state_of_another_step_is_refused(run):
    for step in (2, 400):
        path = run / "checkpoint-3/trainer_state.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "global_step": step}))
        with pytest.raises(UsageError, match=f"its trainer_state.json is that of step {step}"):
            check_checkpoint(run / "checkpoint-3", SETTINGS)


def test_a_checkpoint_of_links_is_a_checkpoint(run, tmp_path):
    """As the cache of the Hub holds it; a copy under another name is one, too."""
    checkpoint = max(run.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for name in (checkpoint.name, "2024"):
        linked = tmp_path / name
        linked.mkdir()
        for path in checkpoint.iterdir():
            (linked / path.name).symlink_to(path)
        check_checkpoint(linked, {}, processes=0)


def test_nearest_good_checkpoint_may_be_farther_away_or_missing(run):
    for step in (2, 3):
        (run / f"checkpoint-{step}" / "optimizer.pt").unlink()
    with pytest.raises(UsageError, match=r"checkpoint-1\.$"):
        check_checkpoint(run / "checkpoint-3", SETTINGS)
    with pytest.raises(UsageError, match=r"no trainer_state\.json.*checkpoint-1\.$"):
        check_checkpoint(run, SETTINGS)  # the folder of the run instead of one of its checkpoints
    shutil.rmtree(run / "checkpoint-1")
    with pytest.raises(UsageError, match="Start again in another --output_dir"):
        check_checkpoint(run / "checkpoint-3", SETTINGS)


def test_shard_that_is_missing_is_named(run):
    folder = run / "checkpoint-3"
    weights = load_file(folder / "model.safetensors")
    first, *_ = weights
    save_file({first: weights.pop(first)}, folder / "a.safetensors")
    save_file(weights, folder / "b.safetensors")
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {first: "a.safetensors", **dict.fromkeys(weights, "b.safetensors")}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match=r"its model\.safetensors is not what was saved"):
        check_checkpoint(folder, SETTINGS)
    (folder / "digests.json").unlink()
    check_checkpoint(folder, SETTINGS)
    check_weights(folder, BertForSequenceClassification(BertConfig(**SIZE)))
    (folder / "b.safetensors").unlink()
    with pytest.raises(UsageError, match=r"it has no b\.safetensors"):
        check_checkpoint(folder, SETTINGS)


def test_settings_are_kept_in_every_checkpoint(saved):
    for step in (1, 2, 3):
        assert settings_in(saved / f"checkpoint-{step}") == {**SETTINGS, "path": "x"}
        check_checkpoint(saved / f"checkpoint-{step}", SETTINGS)


@pytest.mark.parametrize(
    ("now", "change"),
    [
        ({"arguments": {"learning_rate": 2e-3}}, "--learning_rate 0.001 (now 0.002)"),
        ({"arguments": {"loss": None}}, "--loss ce (now unset)"),
        ({"rows": {"train": "b2", "test": "c3"}}, "other rows (train a1 (now b2))"),
    ],
)
def test_changed_settings_are_refused_with_both_values(saved, now, change):
    with pytest.raises(UsageError) as caught:
        check_checkpoint(saved / "checkpoint-2", now)
    assert f"it was made with {change}. Type what it was made with, or start again" in str(caught.value)
    assert list(changes(SETTINGS, now)) == [change]


def test_checkpoint_without_settings_is_accepted_and_gets_them(run, tmp_path):
    """Such as one of the stock Trainer; the Trainer has no place for the state of a callback that is new."""
    path = run / "checkpoint-2" / "trainer_state.json"
    state = json.loads(path.read_text())
    del state["stateful_callbacks"]["RunSettings"]
    path.write_text(json.dumps(state))
    (run / "checkpoint-2" / "digests.json").unlink()
    assert settings_in(run / "checkpoint-2") is None
    check_checkpoint(run / "checkpoint-2", SETTINGS)
    shutil.rmtree(run / "checkpoint-3")
    rows = Dataset.from_dict({"input_ids": [[1, 2]] * 6, "labels": [0, 1] * 3})
    given = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3, "per_device_train_batch_size": 2}
    args = TrainingArguments(str(run), report_to="none", use_cpu=True, **given)
    model = BertForSequenceClassification(BertConfig(**SIZE))
    trainer = Trainer(model, args, train_dataset=rows, callbacks=[RunSettings(SETTINGS)])
    trainer.train(resume_from_checkpoint=str(run / "checkpoint-2"))
    assert settings_in(run / "checkpoint-3") == {**SETTINGS, "path": "x"}


def test_other_number_of_processes_is_refused(saved):
    with pytest.raises(UsageError, match=r"it has no rng_state_0\.pth"):
        check_checkpoint(saved / "checkpoint-2", SETTINGS, 2)


@pytest.mark.parametrize("change", [{"hidden_size": 16}, {"num_hidden_layers": 2}, {"num_hidden_layers": 0}])
def test_weights_of_another_model_are_refused(saved, change):
    checkpoint = saved / "checkpoint-2"
    check_weights(checkpoint, BertForSequenceClassification(BertConfig(**SIZE)))
    with pytest.raises(UsageError, match="its weights are those of another model .*does not fit"):
        check_weights(checkpoint, BertForSequenceClassification(BertConfig(**{**SIZE, **change})))
