from __future__ import annotations

import pytest

from hf_elmix.cli.main import main


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_gradients_are_drawn(tmp_path, capsys, kind):
    picture = tmp_path / f"fig1.{kind}"
    assert main(["gradients", "--mixing", "0-0.5", "--losses", "focal:gamma=2", "--out", str(picture)]) == 0
    assert picture.read_bytes().startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind])
    assert list(tmp_path.iterdir()) == [picture]
    assert str(picture) in capsys.readouterr().out


def test_the_curves_are_those_that_were_asked_for(tmp_path):
    picture = tmp_path / "fig1.svg"
    assert main(["gradients", "--mixing", "0,0.5", "--losses", "gce:q=0.7", "--out", str(picture)]) == 0
    drawn = picture.read_text()
    assert all(f"<!-- {name} -->" in drawn for name in ("F = 0", "F = 0.5", "gce:q=0.7"))
    assert "<!-- F = 0.1 -->" not in drawn
