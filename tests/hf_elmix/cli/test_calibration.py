from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss

from hf_elmix.cli.main import main
from hf_elmix.diagnostics import calibration
from hf_elmix.diagnostics.calibration import temperature_scaled
from hf_elmix.predictions.predict import predict
from hf_elmix.study.store import RECORD
from hf_elmix.text.checkpoint import Rows, open_checkpoint


def test_calibration_of_a_run(kept_run, cells, tmp_path, capsys):
    assert main(["calibration", str(kept_run), "--out", str(tmp_path / "reliability.png")]) == 0
    accuracy, _, _, _, nll, temperature = map(float, cells(capsys.readouterr().out)["as trained"])
    found = open_checkpoint(str(kept_run), Rows(), batch_size=2)
    seen = predict(found.model, found.loader)
    p = np.exp(seen.logits.astype(float))
    assert accuracy == pytest.approx(accuracy_score(seen.labels, p.argmax(-1)), abs=1e-4)
    assert nll == pytest.approx(log_loss(seen.labels, p / p.sum(-1, keepdims=True), labels=[0, 1, 2]), abs=1e-4)
    assert accuracy == pytest.approx(
        json.loads((kept_run / RECORD).read_text())["scores"]["matched_accuracy"]["last"], abs=1e-4
    )
    assert temperature == 1


def test_the_diagram_has_a_run_before_and_after_scaling(kept_run, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(calibration, "plot_reliability", lambda sets, ax, bins: (drawn.update(sets), ax)[1])
    assert main(["calibration", str(kept_run), "--out", str(tmp_path / "fit.png")]) == 0
    (logits, labels), (scaled, _) = drawn.values()
    assert list(drawn) == ["as trained", "temperature scaled"]
    np.testing.assert_allclose(scaled, temperature_scaled(logits, labels)[0])
    assert not np.allclose(scaled, logits, atol=1e-3)
