from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import DataLoader

from hf_elmix import UsageError, focus_to_weights
from hf_elmix.diagnostics.escape import (
    Estimate,
    _estimate_text,
    _jackknife,
    _sampled,
    derived_bound,
    escape,
    plot_escape,
    printed_bound,
    to_text,
)
from hf_elmix.diagnostics.hessian import LossSurface, constant_losses

LOSSES = ("ce", "el", "mix:0.3")


def averaged(model, loader, rows, losses=LOSSES):
    """The mean over all signs for each loss; opposite signs give the same."""
    surface = LossSurface(model, loader, constant_losses(losses))
    with surface.prepared("test", 1, progress=False):
        signs = [torch.tensor([1, *rest]) for rest in itertools.product((-1, 1), repeat=rows - 1)]
        return _sampled(surface, signs)[1].mean(0)


def test_averaged_over_all_signs_it_is_exact(whole):
    net, rows = whole.Net(), whole.rows(6)
    found = averaged(net, whole.batches(rows, 4, 2), 6)
    for place, loss in enumerate(LOSSES):
        h, g = whole.hessian(net, rows, loss), whole.gradients(net, rows, loss)
        second, sigma = g.T @ g / 6, torch.cov(g.T, correction=0)
        exact = [torch.trace(part) for part in (h @ sigma, sigma, second @ second, h @ second)]
        torch.testing.assert_close(found[place], torch.stack(exact))


def test_the_mean_gradient_adds_no_noise(whole):
    """For one draw, whose signs do not add up to 0: the quadratic form is that of the centred gradients."""
    net, rows, signs = whole.Net(), whole.rows(6), torch.tensor([1, 1, -1, 1, 1, 1])
    surface = LossSurface(net, [rows], constant_losses(["ce"]))
    with surface.prepared("test", 1, progress=False):
        found = _sampled(surface, [signs])[1][0, 0]
    g = whole.gradients(net, rows, "ce")
    z = signs.double() @ (g - g.mean(0)) / 6**0.5
    assert float(found[0]) == pytest.approx(float(z @ whole.hessian(net, rows, "ce") @ z))
    assert float(found[1]) == pytest.approx(float(z @ z))


def test_estimates_and_their_errors(whole):
    """Against exact values: traces, noise, differences, and ratios at equal noise."""
    net, rows, m = whole.Net(), whole.rows(20), 4
    result = escape(net, whole.batches(rows, 15, 5), LOSSES, probes=64, batch_size=m)
    assert [one.loss for one in result.losses] == list(LOSSES)
    h = {loss: whole.hessian(net, rows, loss) for loss in LOSSES}
    g = {loss: whole.gradients(net, rows, loss) for loss in LOSSES}
    sigma = {loss: torch.cov(g[loss].T, correction=0) / m for loss in LOSSES}
    trace = {loss: float(torch.trace(h[loss] @ sigma[loss])) for loss in LOSSES}
    noise = {loss: float(torch.trace(sigma[loss])) for loss in LOSSES}
    for one in result.losses:
        pairs = [(one.trace, trace[one.loss]), (one.noise, noise[one.loss])]
        if one.loss != "ce":
            ratio = trace[one.loss] / trace["ce"]
            pairs += [(one.difference, trace[one.loss] - trace["ce"]), (one.ratio, ratio)]
            pairs += [(one.ratio_at_equal_noise, ratio * (noise["ce"] / noise[one.loss]) ** 1.5)]
        for estimate, exact in pairs:
            assert abs(estimate.value - exact) < 4 * estimate.error < 2 * abs(exact)
        squared = g[one.loss].mean(0).square().sum()
        drift = float(squared / g[one.loss].square().sum(1).mean())
        assert one.drift == pytest.approx(drift, rel=0.1)
        assert one.mean == pytest.approx(float(whole.losses(net, rows, one.loss)[0](flat(net)).mean()))
    ce, el, mixed = result.losses
    assert (
        ce.difference
        is ce.ratio
        is ce.ratio_at_equal_noise
        is ce.printed_bound
        is ce.derived_bound
        is el.printed_bound
        is None
    )
    apart = math.hypot(ce.trace.error, mixed.trace.error)
    assert mixed.difference.error < 0.8 * apart  # the draws are shared
    assert result.max_p == pytest.approx(float((-whole.losses(net, rows, "ce")[0](flat(net))).exp().max()))
    f_p, h_p = g["el"].T @ g["el"] / 20, h["el"]
    square, curve = float(torch.trace(f_p @ f_p)), float(torch.trace(h_p @ f_p))
    for estimate, bound in ((mixed.printed_bound, printed_bound), (mixed.derived_bound, derived_bound)):
        exact = bound(2.5, result.max_p, square, curve) / m
        assert abs(estimate.value - exact) < 4 * estimate.error < 2 * abs(exact)


def flat(model):
    return torch.cat([part.detach().flatten() for part in model.parameters()])


def test_standard_errors_are_what_repetition_shows(whole):
    net, rows, groups = whole.Net(), whole.rows(12), 20
    surface = LossSurface(net, [rows], constant_losses(("ce", "mix:0.3")))
    generator = torch.Generator().manual_seed(0)
    with surface.prepared("test", 1, progress=False):
        draws = [torch.randint(2, (12,), generator=generator) * 2 - 1 for _ in range(8 * groups)]
        samples = _sampled(surface, draws)[1]
    traces = samples[:, :, 0].unflatten(0, (groups, 8))
    noises = samples[:, :, 1].unflatten(0, (groups, 8))
    for function, parts in (
        (lambda t: t, (traces[..., 0],)),
        (lambda t, c: t - c, (traces[..., 1], traces[..., 0])),
        (lambda t, s, c: t * (c / s) ** 1.5, (traces[..., 1], noises[..., 1], noises[..., 0])),
    ):
        found = [_jackknife(function, *(part[group] for part in parts)) for group in range(groups)]
        spread = torch.tensor([one.value for one in found]).std().item()
        said = torch.tensor([one.error**2 for one in found]).mean().sqrt().item()
        assert 0.6 < said / spread < 1.6


def test_the_error_of_a_mean_is_the_textbook_one():
    values = torch.tensor([1.0, 2.0, 4.0, 9.0], dtype=torch.float64)
    found = _jackknife(lambda mean: 3 * mean, values)
    assert (found.value, found.error) == pytest.approx((12.0, 3 * values.std().item() / 2))


def test_a_quadratic_whose_answer_is_known(whole):
    """Half the squared distance from the one-hot label, of a linear model: its Hessian is that of least squares."""

    def squares(logits, labels):
        return (logits - nn.functional.one_hot(labels, logits.shape[-1])).square().sum(-1) / 2

    rows, m = whole.rows(30), 5
    model = Linear(3)
    result = escape(model, whole.batches(rows, 16, 14), [squares], probes=40, batch_size=m)
    left = rows["x"] @ model.weight.detach().T - nn.functional.one_hot(rows["labels"])
    second = rows["x"].T @ rows["x"] / 30
    centre = left.T @ rows["x"] / 30
    rowwise = (left.square().sum(1) * ((rows["x"] @ second) * rows["x"]).sum(1)).mean()
    exact = float(rowwise - torch.trace(centre @ second @ centre.T)) / m
    found = result.losses[2].trace
    assert abs(found.value - exact) < 4 * found.error < 0.5 * exact


class Linear(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(classes, 3, generator=generator, dtype=torch.float64))

    def forward(self, x):
        return (x @ self.weight.T,)


class Logistic(nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        logit = x @ self.weight
        return {"logits": torch.stack([torch.zeros_like(logit), logit], dim=1)}


@pytest.fixture
def contradictory():
    """Each row twice, with either label: all losses are stationary at weights of 0, and p is M everywhere."""
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return {"x": x.repeat(2, 1), "labels": torch.tensor([0] * 3 + [1] * 3)}


@pytest.mark.parametrize("loss", LOSSES)
def test_it_is_what_a_step_of_sgd_adds(whole, contradictory, loss):
    """The loss after a step on each row by itself, less the loss before: half the squared learning rate times it."""
    model = Logistic(torch.zeros(2, dtype=torch.float64))
    (found,) = averaged(model, [contradictory], 6, [loss])
    of, weights = whole.losses(model, contradictory, loss)
    rate = 1e-3
    after = [of(weights - rate * step).mean() for step in whole.gradients(model, contradictory, loss)]
    rise = torch.stack(after).mean() - of(weights).mean()
    assert float(rise) == pytest.approx(float(found[0]) * rate**2 / 2, rel=1e-3, abs=1e-14)


def exact_difference(whole, model, rows, beta):
    """Tr(H Sigma) of the mixed loss minus that of cross entropy, Tr(F F), Tr(H F) and M, for batches of one row."""
    h_ce, h_el = (whole.hessian(model, rows, loss) for loss in ("ce", "el"))
    g_ce, g_el = (whole.gradients(model, rows, loss) for loss in ("ce", "el"))
    mixed = torch.cov((g_ce + beta * g_el).T, correction=0)
    difference = torch.trace((h_ce + beta * h_el) @ mixed) - torch.trace(h_ce @ torch.cov(g_ce.T, correction=0))
    f_p = g_el.T @ g_el / len(g_el)
    top = (-whole.losses(model, rows, "ce")[0](flat(model))).exp().max()
    return (float(part) for part in (difference, torch.trace(f_p @ f_p), torch.trace(h_el @ f_p), top))


@pytest.mark.parametrize(("focus", "holds"), [(0, True), (0.1, True), (0.2, False), (0.3, False), (0.4, False)])
def test_19_as_printed_is_not_a_lower_bound(whole, contradictory, focus, holds):
    """At a point that meets all its assumptions; there the derived bound is an equality."""
    beta = focus_to_weights(focus)[1]
    model = Logistic(torch.zeros(2, dtype=torch.float64))
    difference, square, curve, top = exact_difference(whole, model, contradictory, beta)
    assert (top, curve) == pytest.approx((0.5, 0))
    assert (difference > printed_bound(beta, top, square, curve)) == holds == (beta < math.sqrt(7) - 1)
    assert difference == pytest.approx(derived_bound(beta, top, square, curve))


@pytest.mark.parametrize("focus", [0, 0.2, 0.4])
def test_19_as_printed_is_twice_the_difference_if_all_rows_fit(whole, focus):
    beta = focus_to_weights(focus)[1]
    x = torch.tensor([[1.0, 0.3], [-1.2, 0.1], [0.9, -0.2], [-1.0, -0.3]], dtype=torch.float64)
    rows, model = {"x": x, "labels": (x[:, 0] > 0).long()}, Logistic(torch.tensor([9.0, 0.0], dtype=torch.float64))
    difference, square, curve, top = exact_difference(whole, model, rows, beta)
    assert printed_bound(beta, top, square, curve) > 2 * difference > 0


def test_a_bert_against_double_backward(kit):
    """With padding, in batches of unlike size; every row's own product with the Hessian, by other derivatives."""
    model = kit.sequence_model(dropout=0.0).double().eval()
    rows = kit.sequence_rows(4).with_format("torch")[:]
    rows["attention_mask"] = torch.ones_like(rows["input_ids"])
    rows["attention_mask"][2, 5:] = 0
    loader = [{name: part[start:end] for name, part in rows.items()} for start, end in ((0, 3), (3, 4))]
    found = averaged(model, loader, 4, ["mix:0.3"])[0]
    model.set_attn_implementation("eager")
    weights = list(model.parameters())
    labels, inputs = rows["labels"], {name: part for name, part in rows.items() if name != "labels"}
    p = model(**inputs).logits.softmax(-1)[torch.arange(4), labels]
    losses = -p.log() + 2.5 * (1 - p)
    rowwise = [joined(torch.autograd.grad(one, weights, retain_graph=True)) for one in losses]
    slope = joined(torch.autograd.grad(losses.mean(), weights, create_graph=True))
    centred = [one - torch.stack(rowwise).mean(0) for one in rowwise]
    bent = [one @ joined(torch.autograd.grad(slope @ one, weights, retain_graph=True)) for one in centred]
    assert float(found[0]) == pytest.approx(float(torch.stack(bent).mean()))
    assert float(found[1]) == pytest.approx(float(torch.stack([one @ one for one in centred]).mean()))


def joined(parts):
    return torch.cat([part.flatten() for part in parts])


def test_the_batches_of_the_loader_change_nothing(whole):
    net, rows = whole.Net(), whole.rows(9)
    one, other = (escape(net, whole.batches(rows, *sizes), probes=2, progress=False) for sizes in ((9,), (4, 4, 1)))
    for first, second in zip(one.losses, other.losses, strict=True):
        assert first.trace.value == pytest.approx(second.trace.value, rel=1e-9)
        assert first.noise.error == pytest.approx(second.noise.error, rel=1e-6)


def test_scaling_with_batch_size_and_loss(whole):
    """Proportional to 1/m and to the cube of a constant factor, on which the ratio at equal noise does not depend."""
    net, rows = whole.Net(), whole.rows(9)

    def thrice(logits, labels):
        return 3 * nn.functional.cross_entropy(logits, labels, reduction="none")

    small, large = (escape(net, [rows], [thrice], probes=3, batch_size=m) for m in (1, 10))
    ce, _, scaled = small.losses
    assert scaled.trace.value == pytest.approx(27 * ce.trace.value)
    assert (scaled.ratio.value, scaled.ratio_at_equal_noise.value) == pytest.approx((27, 1))
    assert max(scaled.ratio.error, scaled.ratio_at_equal_noise.error) < 1e-9
    assert large.losses[2].trace.value == pytest.approx(2.7 * ce.trace.value)
    assert large.losses[0].drift == pytest.approx(ce.drift)


def test_the_model_and_random_numbers_are_as_before(whole):
    net, rows = whole.Net(dropout=0.5), whole.rows(8)
    net.train()
    net.last.eval()
    net.first.weight.grad = torch.ones_like(net.first.weight)
    before, state = {name: part.clone() for name, part in net.state_dict().items()}, torch.get_rng_state()
    loader = DataLoader([{name: part[k] for name, part in rows.items()} for k in range(8)], batch_size=3, shuffle=True)
    result = escape(net, loader, probes=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert (net.training, net.dropout.training, net.last.training) == (True, True, False)
    assert torch.equal(net.first.weight.grad, torch.ones_like(net.first.weight))
    assert net.last.weight.grad is None
    assert all(torch.equal(part, before[name]) for name, part in net.state_dict().items())
    plain = escape(whole.Net(), [rows], probes=2)  # dropout is off
    assert result.losses[0].mean == pytest.approx(plain.losses[0].mean)


def test_frozen_weights_do_not_count(whole):
    net, rows = whole.Net(), whole.rows(4)
    net.first.requires_grad_(False)
    found = averaged(net, [rows], 4, ["ce"])[0]
    g, h = whole.gradients(net, rows, "ce")[:, 16:], whole.hessian(net, rows, "ce")[16:, 16:]
    assert float(found[0]) == pytest.approx(float(torch.trace(h @ torch.cov(g.T, correction=0))))
    assert escape(net, [rows], probes=2).weights == 12


def test_a_schedule_is_its_phases(whole):
    result = escape(whole.Net(), [whole.rows(3)], ["mix:0,0.5", "focal:gamma=2"], probes=2)
    assert [one.loss for one in result.losses] == ["ce", "el", "mix:0", "focal:gamma=2,alpha=1"]
    assert [one.printed_bound is not None for one in result.losses] == [False, False, True, False]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"probes": 1}, "Expected probes >= 2"),
        ({"batch_size": 0}, "Expected probes >= 2"),
        ({"losses": ["cot"]}, "'cot' is more than a function"),
        ({"losses": ["mmc"]}, "'mmc:scale=10' is more than a function"),
        ({"losses": ["ce-rescaled:0"]}, "is more than a function"),
        ({"losses": ["fokal"]}, "Did you mean 'focal'"),
    ],
)
def test_refused_arguments(whole, given, said):
    with pytest.raises(UsageError, match=said):
        escape(whole.Net(), [whole.rows(3)], **given)


def test_the_table_explains_itself(whole, capsys):
    result = escape(whole.Net(), [whole.rows(7)], probes=2, batch_size=5)
    text = to_text(result)
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["loss", "ce", "el", "mix:0.3"]
    mixed = result.losses[2]
    shown = (mixed.trace, mixed.difference, mixed.printed_bound, mixed.derived_bound, mixed.ratio_at_equal_noise)
    assert re.findall(r"(\S+) ± (\S+)", lines[3]) == [tuple(_estimate_text(one).split(" ± ")) for one in shown]
    assert "7 rows, 28 weights, batches of 5, 2 probes" in text
    assert "This does not tell" in text
    assert capsys.readouterr() == ("", "")  # no bar where there is no terminal


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [(12.346, 0.678, "12.35 ± 0.68"), (-1234.5, 56.7, "-1234 ± 57"), (3.21e-7, 4.56e-8, "3.21e-07 ± 4.6e-08")],
)
def test_two_digits_of_the_error(value, error, text):
    assert _estimate_text(Estimate(value, error)) == text


def test_the_figure_shows_two_standard_errors(whole):
    result = escape(whole.Net(), [whole.rows(7)], probes=3)
    ax = plot_escape(result, Figure().subplots())
    assert [label.get_text() for label in ax.get_yticklabels()] == ["EL", "F = 0.3"]
    as_it_is, at_equal_noise = (container.lines for container in ax.containers)
    assert as_it_is[0].get_xdata().tolist() == [one.ratio.value for one in result.losses[1:]]
    assert at_equal_noise[0].get_xdata().tolist() == [one.ratio_at_equal_noise.value for one in result.losses[1:]]
    (start, _), (end, _) = as_it_is[2][0].get_segments()[1]
    assert end - start == pytest.approx(4 * result.losses[2].ratio.error)
    above = [one for one in result.losses[1:] if one.ratio.value > 0]
    assert 0 < len(above) < 2
    assert ax.get_xscale() == "linear"
    result = replace(result, losses=(result.losses[0], *above))
    assert plot_escape(result, Figure().subplots()).get_xscale() == "log"
