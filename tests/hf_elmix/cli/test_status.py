from __future__ import annotations

from dataclasses import replace

from hf_elmix.cli.main import main


def test_the_status_of_a_study(runs, run_of, capsys):
    store = runs(
        (run_of(mixing="ce"), False),
        (run_of(mixing="0,0.5", status="diverged"), False),
        (run_of(mixing="0", score=None, status="failed", error="no\nat x"), False),
    )
    grid = {"tasks": ["mrpc"], "methods": ["ce", "0", "0,0.5", "el"], "seeds": [0]}
    store.declare({"grids": [grid], "methods": {}, "settings": {}, "commands": []})
    assert main(["status", str(store.folder)]) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("1 done", "1 failed", "1 missing", "mrpc el seed 0: missing: "))
    assert "mrpc 0 seed 0: failed: no\n" in shown
    assert "mrpc 0,0.5 seed 0: diverged: the loss became NaN or infinite\n" in shown


def test_nothing_in_a_record_reaches_the_terminal_as_a_command(runs, run_of, capsys):
    nasty = "\x1b]0;owned\x07\u202e"
    failed = run_of(mixing="ce", score=None, status="failed", error=f"{nasty}\rdone")
    store = runs((replace(failed, key=replace(failed.key, method=nasty)), False))
    assert main(["status", str(store.folder)]) == 0
    shown = capsys.readouterr().out
    assert shown.count(r"\x1b]0;owned\x07\u202e") == 3  # in the table, and the key and error below
    assert not set("\x1b\x07\r\u202e") & set(shown)
