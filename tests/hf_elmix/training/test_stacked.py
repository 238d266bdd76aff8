from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_elmix.errors import UsageError
from hf_elmix.losses.registry import parse_loss
from hf_elmix.training import stacked
from hf_elmix.training.stacked import Objective, StackedModel

LOSSES = ("ce", "0", "el", "ce-rescaled:0.4", "focal:gamma=2,alpha=0.25", "gce:q=0.7", "mpce")
ROWS, CLASSES = 12, 3
X, Y = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1)), torch.arange(ROWS) % CLASSES


def net(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES))


class Inputs(nn.Module):
    """A model whose rows are called `features`."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return {"logits": self.inner(features)}


def stack_of(models: list[nn.Module], **more) -> StackedModel:
    optimizer = torch.optim.SGD(models[0].parameters(), lr=1.0)
    return StackedModel(models, {"features": X}, Y, optimizer, [0.1] * len(models), **more)


@pytest.mark.parametrize("traced", [False, True])
def test_a_step_is_that_of_autograd_for_every_loss(monkeypatch, traced):
    monkeypatch.setattr(stacked, "TRACED_AFTER", 2 if traced else 10**6)
    models = [Inputs(net(seed)) for seed in range(len(LOSSES))]
    losses = [parse_loss(name).at(0, 1) for name in LOSSES]
    factors = torch.tensor([loss.learning_rate_factor for loss in losses])
    together = stack_of(models)
    batches = torch.stack([torch.randperm(ROWS, generator=torch.Generator().manual_seed(run))[:5] for run in range(7)])
    objective = Objective(losses)
    for _ in range(4):
        log_p, others = together.step(batches, objective, factors)
    of_samples, ce, el = objective.of_terms(log_p, others)
    for run, (model, loss) in enumerate(zip(models, losses, strict=True)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1 * float(factors[run]))
        for _ in range(4):
            logits, ids = model(X[batches[run]])["logits"], Y[batches[run]]
            optimizer.zero_grad()
            loss(logits, ids).backward()
            optimizer.step()
        for name, value in together.state_of(run).items():
            torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ce[run], F.cross_entropy(logits, ids, reduction="none").detach())
        torch.testing.assert_close(el[run], 1 - logits.softmax(-1).gather(1, ids[:, None])[:, 0].detach())
        torch.testing.assert_close(of_samples[run], loss(logits, ids, reduction="none").detach())


def test_the_smaller_last_batch_of_an_epoch_is_not_traced(monkeypatch):
    monkeypatch.setattr(stacked, "TRACED_AFTER", 2)
    traced = []
    monkeypatch.setattr(stacked, "_traced", lambda function, arguments: traced.append(arguments) or function)
    together, objective = stack_of([Inputs(net(0))]), Objective([parse_loss("ce").at(0, 1)])
    for rows in torch.arange(ROWS).split(5) * 4:  # four epochs of batches of 5, 5 and 2
        together.step(rows[None], objective, torch.ones(1))
    assert [len(rows) for *_, rows, _, _ in traced] == [5]


def test_a_custom_function_is_never_traced(monkeypatch):
    monkeypatch.setattr(stacked, "TRACED_AFTER", 1)

    def capped(logits: Tensor, labels: Tensor) -> Tensor:  # which branch is taken depends on the values
        ce = F.cross_entropy(logits, labels, reduction="none")
        return ce if ce.mean() > 1 else ce * 0

    loss, together = parse_loss(capped).at(0, 1), stack_of([Inputs(net(0))])
    objective, whole = Objective([loss]), torch.arange(ROWS)[None]
    for _ in range(200):
        log_p, _ = together.step(whole, objective, torch.ones(1))
    assert 0.9 < -log_p.mean() <= 1  # it stops where the loss does


def test_frozen_parameters_and_buffers_stay():
    class Frozen(Inputs):
        def __init__(self) -> None:
            super().__init__(net(0))
            self.inner[0].requires_grad_(False)
            self.register_buffer("shift", torch.full((CLASSES,), 0.5))

        def forward(self, features: Tensor) -> dict[str, Tensor]:
            return {"logits": self.inner(features) + self.shift}

    models = [Frozen(), Frozen()]
    together = stack_of(models)
    together.step(torch.arange(8).view(2, 4), Objective([parse_loss("ce").at(0, 1)] * 2), torch.ones(2))
    before, after = models[1].state_dict(), together.state_of(1)
    assert set(before) == set(after)
    assert [name for name in before if not torch.equal(before[name], after[name])] == [
        "inner.2.weight",
        "inner.2.bias",
    ]


def test_rows_are_evaluated_in_parts_that_fit(monkeypatch):
    models = [Inputs(net(seed)) for seed in range(3)]
    monkeypatch.setattr(stacked, "CELLS", 3 * 4 * 5)  # five rows of three runs
    logits = stack_of(models).logits({"features": X})
    torch.testing.assert_close(logits, torch.stack([model(X)["logits"].detach() for model in models]))


@pytest.mark.parametrize(
    ("layer", "message"),
    [(nn.Dropout(0.5), "random"), (nn.BatchNorm1d(CLASSES), "cannot be trained in a stack")],
)
def test_a_model_that_cannot_be_stacked_is_refused(layer, message):
    with pytest.raises(UsageError, match=message):
        stack_of([Inputs(nn.Sequential(nn.Linear(4, CLASSES), layer))] * 2)


def test_a_model_with_logits_for_each_token_is_refused():
    with pytest.raises(UsageError, match=r"logits \(rows, C\)"):
        stack_of([Inputs(nn.Sequential(nn.Linear(4, CLASSES), nn.Unflatten(-1, (1, CLASSES))))])
