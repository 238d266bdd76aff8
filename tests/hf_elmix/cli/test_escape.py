from __future__ import annotations

import pandas as pd

from hf_elmix.cli.main import main
from hf_elmix.diagnostics.escape import escape, to_text
from hf_elmix.text.checkpoint import Rows, open_checkpoint


def test_escape_of_a_run_is_that_of_its_training_rows(kept_run, tmp_path, capsys):
    words = ["--probes", "2", "--losses", "0,0.5", "--eigenvalues", "1", "--out", str(tmp_path / "escape.png")]
    assert main(["escape", str(kept_run), *words]) == 0
    said = capsys.readouterr().out
    found = open_checkpoint(str(kept_run), Rows(split="train"), batch_size=5)
    result = escape(found.model, found.loader, ["0,0.5"], probes=2, batch_size=4, progress=False)
    assert to_text(result) in said
    assert all(f"\n{phase}: largest eigenvalues" in said for phase in ("mix:0", "el"))
    assert (tmp_path / "escape.png").stat().st_size > 10_000


def test_escape_of_a_model_on_rows_of_a_file(kept_run, tmp_path, capsys):
    rows = {
        "one": ["a doctor", "a dog", "music"],
        "two": ["a boat", "a car", "a bike"],
        "label": ["neutral", "entailment", "neutral"],
    }
    pd.DataFrame(rows).to_csv(tmp_path / "mine.csv", index=False)
    words = ["--file", str(tmp_path / "mine.csv"), "--probes", "2", "--noise_batch_size", "1"]
    assert main(["escape", str(kept_run / "model"), *words]) == 0
    assert "batches of 1, 2 probes" in capsys.readouterr().out
