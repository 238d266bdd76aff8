"""Our own classifiers in a Trainer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_elmix.images.models import ImageClassifier
from hf_elmix.reviews.models import LSTMClassifier
from hf_elmix.tables.models import TableClassifier

BUILT = {
    "features": (TableClassifier, (4, 3, "hidden"), lambda: torch.randn(16, 4)),
    "input_ids": (LSTMClassifier, (20, 3, 1, 8), lambda: torch.randint(1, 20, (16, 5))),
    "pixel_values": (ImageClassifier, (3,), lambda: torch.randn(16, 3, 8, 8)),
}


@pytest.mark.parametrize("name", BUILT)
def test_labels_can_be_smoothed(kit, name):
    """The Trainer reads the configuration of a model then."""
    kind, given, draw = BUILT[name]
    model = kind.seeded(0, *given)
    rows = [{name: row, "labels": k % 3} for k, row in enumerate(draw())]
    trainer = kit.trainer(
        **{"model": model, "train_dataset": rows, "eval_dataset": None, "max_steps": 1},
        **{"mixing": "ce", "label_smoothing_factor": 0.1, "per_device_train_batch_size": 16},
    )
    model.train()
    batch = {name: torch.stack([row[name] for row in rows])}
    buffers = [buffer.clone() for buffer in model.buffers()]
    expected = nn.functional.cross_entropy(model(**batch)["logits"], torch.arange(16) % 3, label_smoothing=0.1).item()
    for buffer, before in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(before)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    one, same, other = (TableClassifier.seeded(seed, 4, 3, "linear").layers.classifier.weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), state)
