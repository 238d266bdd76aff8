from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast, TrainingArguments

from hf_elmix.reviews.models import LSTMClassifier
from hf_elmix.reviews.protocol import ARGUMENTS, LOSSES
from hf_elmix.reviews.study import review_task, reviews_study
from hf_elmix.study.grid import run_grid
from hf_elmix.study.runner import run_branch
from hf_elmix.study.spec import DEFAULTS
from hf_elmix.study.store import Store
from hf_elmix.training.trainer import MixedLossTrainer

SHORT = {"num_train_epochs": 4, "per_device_train_batch_size": 7, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def store(reviews, tmp_path_factory) -> Store:
    """A study of one architecture, whose models are kept."""
    store = Store(str(tmp_path_factory.mktemp("runs")))
    study = reviews_study(reviews, [3], LOSSES, ["lstm-2x50"], SHORT)
    run_grid(study, store, run_branch, keep="models")
    return store


@pytest.mark.parametrize("loss", LOSSES)
def test_each_run_ends_with_the_weights_of_a_trainer_alone(reviews, store, tmp_path, loss):
    task = review_task(reviews, "lstm-2x50")
    own = {"output_dir": str(tmp_path), "seed": 3, "dataloader_pin_memory": False}
    # An evaluation draws from the generator that draws the order of the next epoch, so it is part of the training.
    args = TrainingArguments(**{**DEFAULTS, **ARGUMENTS, **SHORT, **own})
    alone = MixedLossTrainer(args=args, loss=loss, **task.inputs(3).trainer)
    alone.train()
    (record,) = (record for record in store.records() if record.key.method == loss)
    saved = load_file(store.folder / record.key.task / loss / "seed3" / "model" / "model.safetensors")
    for name, value in alone.model.state_dict().items():
        torch.testing.assert_close(saved[name], value, rtol=0, atol=1e-5)
    scores = alone.evaluate(task.inputs(3).trainer["eval_dataset"])
    for name in ("test_accuracy", "validation_accuracy", "test_loss"):
        assert record.scores[name]["last"] == pytest.approx(scores[f"eval_{name}"], abs=1e-5)


def test_what_regimes_have_in_common_is_trained_once(store):
    trained = {record.key.method: record.cost["steps_trained"] for record in store.records()}
    steps = 4 * 14  # 96 rows in batches of 7
    assert trained["ce"] == steps
    assert sum(trained.values()) == pytest.approx(steps * (1 + 1 + 5 / 6 + 1 / 20), abs=2)


def test_a_task_that_can_be_learned_is(store):
    assert {record.status for record in store.records()} == {"done"}
    assert all(record.score > 0.9 for record in store.records())


def test_a_kept_model_has_its_vocabulary_beside_it(reviews, store):
    (record, *_) = store.records()
    folder = store.folder / record.key.task / record.key.method / "seed3" / "model"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = LSTMClassifier.from_pretrained(folder).eval()
    text = "LOVELY it fits the dress"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert ids.tolist() == [reviews.tokenizer(text)["input_ids"]]
    assert reviews.classes[model(ids)["logits"].argmax()] == "good"


def test_a_wider_or_deeper_model_is_more_work(reviews):
    works = [review_task(reviews, name).work for name in ("lstm-1x50", "lstm-1x100", "lstm-2x100")]
    assert works == sorted(works)
    assert works[2] == 2 * works[1]
