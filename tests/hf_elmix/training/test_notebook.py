from __future__ import annotations

import pytest
from transformers import trainer

pytest.importorskip("IPython")
from transformers.utils.notebook import NotebookProgressCallback  # noqa: E402

from hf_elmix.training.notebook import LossTable  # noqa: E402

TERMS = ["CE", "EL", "α", "β"]


@pytest.mark.parametrize("evaluate", ["no", "steps", "epoch"])
def test_the_table_shows_both_terms(kit, monkeypatch, logged, evaluate):
    monkeypatch.setattr(trainer, "DEFAULT_PROGRESS_CALLBACK", NotebookProgressCallback)  # as in a notebook
    mixed = kit.trainer(mixing="0-0.5", disable_tqdm=False, eval_strategy=evaluate, eval_steps=5)
    monkeypatch.setattr(LossTable, "on_train_end", lambda *_, **__: None)  # which discards it
    (table,) = (callback for callback in mixed.callback_handler.callbacks if isinstance(callback, LossTable))
    assert [type(callback) for callback in mixed.callback_handler.callbacks].count(NotebookProgressCallback) == 0
    mixed.train()
    columns, *lines = table.training_tracker.inner_table
    assert set(TERMS) <= set(columns)
    last = dict(zip(columns, lines[-1], strict=True))
    for column, name in {"Training Loss": "loss", "CE": "loss_ce", "EL": "loss_el", "α": "alpha", "β": "beta"}.items():
        assert last[column] == logged(mixed, name)[-1]
    if evaluate != "no":
        assert last["Validation Loss"] == logged(mixed, "eval_loss")[-1]
        assert last["Validation EL"] == logged(mixed, "eval_loss_el")[-1]
    assert len(lines) == {"no": 10, "steps": 2, "epoch": 2}[evaluate]
