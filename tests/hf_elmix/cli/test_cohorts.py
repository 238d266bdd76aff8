from __future__ import annotations

from hf_elmix.cli.main import main
from hf_elmix.predictions.records import FILE


def test_cohorts_are_counted(training, cells, capsys):
    assert main(["cohorts", str(training), "--out", str(training / "flow.png")]) == 0
    row = cells(capsys.readouterr().out)["1"]
    assert [cell.split(":")[0] for cell in row] == ["1 of 1", "1 of 1", "1 of 2"]
    assert main(["cohorts", str(training / FILE), "--threshold", "0.5"]) == 0
    assert [cell.split(":")[0] for cell in cells(capsys.readouterr().out)["1"]] == ["1 of 1", "0 of 0", "2 of 3"]
