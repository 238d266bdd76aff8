"""Losses and schedules as objects; the functions behind them are tested with the registry."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest
import torch

from hf_elmix import losses
from hf_elmix.losses import CrossEntropyFunction, Focal, MaxMahalanobis, Mixed, NegativeComplementEntropy
from hf_elmix.losses.registry import parse_loss

LOGITS = 3 * torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(4, (20,), generator=torch.Generator().manual_seed(1))
LABELS[::6] = -100


def test_cot_is_what_is_minimised():
    expected = -losses.complement_entropy(LOGITS, LABELS, reduction="none")
    torch.testing.assert_close(NegativeComplementEntropy()(LOGITS, LABELS, reduction="none"), expected)


def test_the_distance_from_the_centre_is_minus_the_logit_of_the_label():
    features = torch.randn(20, 6, generator=torch.Generator().manual_seed(2))
    centers = losses.max_mahalanobis_centers(4, 6, 3.0)
    expected = losses.mmc_loss(features, LABELS, centers, reduction="none")
    loss = MaxMahalanobis(3.0)
    torch.testing.assert_close(loss(losses.center_logits(features, centers), LABELS, reduction="none"), expected)
    assert (str(loss), str(MaxMahalanobis())) == ("mmc:scale=3", "mmc:scale=10")
    assert pickle.loads(pickle.dumps(loss)) == loss


def test_losses_move_with_their_schedules():
    mixed, rescaled, focal = (parse_loss(text) for text in ("0,0.5", "ce-rescaled:0,0.5", "focal"))
    assert [str(mixed.at(step, 20)) for step in (0, 18, 19)] == ["mix:0", "mix:0", "el"]
    assert mixed.changes(20) == rescaled.changes(20) == [19]
    assert focal.changes(20) == []
    assert focal.at(19, 20) == Focal()
    assert mixed.losses == (Mixed(1, 1), Mixed(0, 1))
    assert rescaled.at(19, 20).learning_rate_factor == pytest.approx(1 / 3)
    assert mixed.at(0, 1).learning_rate_factor == focal.at(0, 1).learning_rate_factor == 1


@dataclass(frozen=True)
class Power(CrossEntropyFunction):
    """A custom loss with the one method that it has to implement."""

    power: float = 2.0
    name = "power"

    def of_ce(self, ce):
        return ce**self.power


def test_a_custom_function_of_cross_entropy():
    weight = torch.tensor([0.5, 2.0, 1.0, 3.0])
    ce = torch.nn.functional.cross_entropy(LOGITS, LABELS, reduction="none")
    torch.testing.assert_close(Power()(LOGITS, LABELS, reduction="none"), ce**2)
    expected = (ce**2 * weight[LABELS.clamp(0)]).sum() / weight[LABELS[LABELS >= 0]].sum()
    torch.testing.assert_close(Power()(LOGITS, LABELS, weight=weight), expected)
    other = torch.where(LABELS == -100, -1, LABELS)
    torch.testing.assert_close(Power()(LOGITS, other, ignore_index=-1, reduction="sum"), (ce**2).sum())
    assert str(parse_loss(Power(3.0))) == "power:power=3"
    assert parse_loss(Power()).at(0, 1) == Power()
