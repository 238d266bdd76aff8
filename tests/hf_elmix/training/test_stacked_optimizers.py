"""The updates of stacked parameters are those that `torch.optim` makes for each run alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hf_elmix.errors import UsageError
from hf_elmix.training.stacked_optimizers import clip_gradients, stacked_optimizer

RATES = [0.3, 0.02, 0.001]
SHAPES = [(4, 3), (5,), ()]


def draw(step: int) -> list[Tensor]:
    """A stacked tensor of three runs for each parameter."""
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(len(RATES), *shape, generator=generator) for shape in SHAPES]


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (torch.optim.SGD, {}),
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        (torch.optim.AdamW, {}),
        (torch.optim.AdamW, {"weight_decay": 0.1, "betas": (0.8, 0.9), "eps": 1e-3}),
    ],
)
def test_each_run_is_updated_as_it_would_be_alone(kind, arguments):
    alone = [[value[run].clone() for value in draw(0)] for run in range(len(RATES))]
    stacked, first = draw(0), [nn.Parameter(value[0].clone()) for value in draw(0)]
    decay = arguments.get("weight_decay", 0.0)
    # As the Trainer does, the second parameter is left out of the weight decay.
    groups = [{"params": [first[0], first[2]], "weight_decay": decay}, {"params": [first[1]], "weight_decay": 0.0}]
    optimizer = stacked_optimizer(kind(groups, **{"lr": 1.0, **arguments}), first)
    optimizers = []
    for run, rate in enumerate(RATES):
        alone[run] = [nn.Parameter(value) for value in alone[run]]
        own = [
            {"params": [alone[run][0], alone[run][2]], "weight_decay": decay},
            {"params": [alone[run][1]], "weight_decay": 0.0},
        ]
        optimizers.append(kind(own, **{**arguments, "lr": rate}))
    for step in range(1, 6):
        gradients = draw(step)
        for run, one in enumerate(optimizers):
            for parameter, gradient in zip(alone[run], gradients, strict=True):
                parameter.grad = gradient[run].clone()
            one.step()
        optimizer.step(stacked, gradients, torch.tensor(RATES))
    for run in range(len(RATES)):
        for value, parameter in zip(stacked, alone[run], strict=True):
            torch.testing.assert_close(value[run], parameter.detach())


def test_each_run_is_clipped_as_it_would_be_alone():
    gradients = [value * torch.tensor([1.0, 1e-3, 50.0]).view(-1, *(1,) * (value.dim() - 1)) for value in draw(0)]
    alone = [[nn.Parameter(torch.zeros_like(value[0])) for value in gradients] for _ in RATES]
    for run, parameters in enumerate(alone):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient[run].clone()
        nn.utils.clip_grad_norm_(parameters, 0.5)
    clip_gradients(gradients, 0.5)
    for run, parameters in enumerate(alone):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            torch.testing.assert_close(gradient[run], parameter.grad)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (lambda p: torch.optim.Adagrad(p), "Expected SGD or AdamW for a stack, but got Adagrad"),
        (lambda p: torch.optim.Adam(p), "but got Adam"),
        (lambda p: torch.optim.SGD(p, momentum=0.9, dampening=0.5), "dampening=0.5"),
        (lambda p: torch.optim.AdamW(p, amsgrad=True), "amsgrad=True"),
    ],
)
def test_what_a_stack_cannot_follow_is_refused(optimizer, message):
    parameter = nn.Parameter(torch.zeros(2))
    with pytest.raises(UsageError, match=message):
        stacked_optimizer(optimizer([parameter]), [parameter])
