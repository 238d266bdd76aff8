from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_elmix import UsageError
from hf_elmix.diagnostics.sharpness import top_eigenvalues


@pytest.mark.parametrize("loss", ["ce", "el", "mix:0.3"])
def test_against_all_eigenvalues(whole, loss):
    net, rows = whole.Net(), whole.rows(15)
    exact = torch.linalg.eigvalsh(whole.hessian(net, rows, loss)).flip(0)
    found = top_eigenvalues(net, whole.batches(rows, 10, 5), loss, 3)
    for one, value in zip(found, exact[:3].tolist(), strict=True):
        assert one.value == pytest.approx(value, abs=2 * one.error + 1e-9)
        assert one.error <= 1e-3 * exact[0]


def test_the_error_is_said_where_iterations_were_too_few(whole):
    net, rows = whole.Net(), whole.rows(15)
    exact = torch.linalg.eigvalsh(whole.hessian(net, rows, "ce"))
    found = top_eigenvalues(net, [rows], "ce", 2, steps=4)
    for one in found:
        nearest = float((exact - one.value).abs().min())
        assert 1e-4 < nearest <= one.error


class Least(nn.Module):
    """A linear model of three outputs, whose least squares have each eigenvalue of E[xx'] three times."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 3))

    def forward(self, x):
        return {"logits": x.float() @ self.weight}


def squares(logits, labels):
    return (logits - nn.functional.one_hot(labels, logits.shape[-1])).square().sum(-1) / 2


def test_a_quadratic_whose_eigenvalues_are_known(whole):
    """In single precision; what is there several times is found once, and there is no fourth."""
    rows = whole.rows(40)
    exact = torch.linalg.eigvalsh(rows["x"].T @ rows["x"] / 40).flip(0).tolist()
    found = top_eigenvalues(Least(), [rows], squares, 5)
    assert [one.value for one in found] == pytest.approx(exact, rel=1e-5)


def test_it_stops_when_it_is_sure(whole):
    passes = []

    class Counted(list):
        def __iter__(self):
            passes.append(1)
            return super().__iter__()

    top_eigenvalues(whole.Net(), Counted([whole.rows(10)]), "ce", 1, steps=28)
    assert len(passes) < 20


def test_flat(whole):
    net = whole.Net()
    flat = top_eigenvalues(net, [whole.rows(5)], lambda logits, labels: 0 * logits.sum(-1), 1)
    assert [one.value for one in flat] == [0]


def test_what_is_refused(whole):
    with pytest.raises(UsageError, match="Expected one loss, but 'mix:0,0.5' is several: mix:0, el"):
        top_eigenvalues(whole.Net(), [whole.rows(3)], "mix:0,0.5")
    with pytest.raises(UsageError, match="count to be from 1 to steps=30, but got 31"):
        top_eigenvalues(whole.Net(), [whole.rows(3)], "ce", 31)
