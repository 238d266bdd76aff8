"""A training step of each LSTM of the study of reviews: padded, as the study does, beside other ways.

    python tests/benchmarks/bench_reviews.py

The batched form is written by hand, because `torch.func.vmap` does not take `nn.LSTM`: one batched matrix product for
each word and all runs, on rows sorted by length, so that it computes no padding but where runs differ. It trains the
four regimes apart (4 runs of each seed), where shared prefixes need 2.883. Times are processor time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from hf_elmix.reviews.models import PAD, LSTMClassifier
from hf_elmix.reviews.protocol import ARCHITECTURES, ARGUMENTS

ROWS, VOCABULARY, CLASSES = ARGUMENTS["per_device_train_batch_size"], 7728, 5
SHORTEST, LONGEST = 18, 120  # words, about evenly distributed in the paper's data: 66 on average
SHARED = 1 + 1 + 5 / 6 + 1 / 20  # runs that the four regimes need with shared prefixes


class Recurrence(torch.autograd.Function):
    """The states of an LSTM layer of R runs, from the part of its gates that depends on the inputs.

    `gates` has shape (T, R, B, 4H), `weight` (R, H, 4H); word t is in the first `active[t]` rows of a batch at most.
    """

    @staticmethod
    def forward(ctx, gates: Tensor, weight: Tensor, active: list[int]) -> Tensor:
        steps, runs, rows, width = gates.shape[0], gates.shape[1], gates.shape[2], weight.shape[1]
        gates = gates.clone()
        states, cells, tanhs = (gates.new_zeros(steps + 1, runs, rows, width) for _ in range(3))
        for t, n in enumerate(active):
            own, cell = gates[t, :, :n], cells[t + 1, :, :n]
            own.baddbmm_(states[t, :, :n], weight)
            own[..., : 2 * width].sigmoid_()
            own[..., 2 * width : 3 * width].tanh_()
            own[..., 3 * width :].sigmoid_()
            write, keep, new, out = own.split(width, -1)
            torch.mul(keep, cells[t, :, :n], out=cell)
            cell.addcmul_(write, new)
            torch.tanh(cell, out=tanhs[t + 1, :, :n])
            torch.mul(out, tanhs[t + 1, :, :n], out=states[t + 1, :, :n])
        ctx.save_for_backward(gates, weight, states, cells, tanhs)
        ctx.active = active
        return states[1:]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        gates, weight, states, cells, tanhs = ctx.saved_tensors
        width, slopes, turned = weight.shape[1], torch.zeros_like(gates), weight.transpose(1, 2).contiguous()
        state, cell = torch.zeros_like(states[0]), torch.zeros_like(states[0])
        for t in reversed(range(len(ctx.active))):
            n = ctx.active[t]
            write, keep, new, out = gates[t, :, :n].split(width, -1)
            own, tanh = slopes[t, :, :n], tanhs[t + 1, :, :n]
            to_write, to_keep, to_new, to_out = own.split(width, -1)
            ds, dc = state[:, :n].add_(grad[t, :, :n]), cell[:, :n]
            torch.mul(ds, tanh, out=to_out)
            dc.addcmul_(ds * out, 1 - tanh * tanh)
            torch.mul(dc, new, out=to_write)
            torch.mul(dc, cells[t, :, :n], out=to_keep)
            torch.mul(dc, write, out=to_new)
            for part, value in ((to_write, write), (to_keep, keep), (to_out, out)):
                part.mul_(value * (1 - value))
            to_new.mul_(1 - new * new)
            dc.mul_(keep)
            state[:, :n] = torch.bmm(own, turned)
        runs = gates.shape[1]
        before = states[:-1].permute(1, 3, 0, 2).reshape(runs, width, -1)
        return slopes, torch.bmm(before, slopes.transpose(0, 1).reshape(runs, -1, 4 * width)), None


class Stack:
    """The classifiers of R runs as one."""

    def __init__(self, models: list[LSTMClassifier]) -> None:
        states = [model.state_dict() for model in models]
        self.layers = models[0].lstm.num_layers
        self.params = {name: torch.stack([s[name] for s in states]).requires_grad_() for name in states[0]}

    def logits(self, rows: Tensor) -> Tensor:
        """Logits (R, B, C) of token ids (R, B, T), each run's rows sorted by length, the longest first."""
        lengths = (rows != PAD).sum(-1)
        active = (lengths[..., None] > torch.arange(rows.shape[-1])).sum(1).max(0).values.tolist()
        runs = torch.arange(len(rows))[:, None]
        x = self.params["embedding.weight"][runs[..., None], rows].permute(2, 0, 1, 3)
        for layer in range(self.layers):
            weights = (
                self.params[f"lstm.{name}_l{layer}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            inner, recurrent, *biases = weights
            gates = x @ inner.transpose(1, 2) + sum(biases)[:, None]
            x = Recurrence.apply(gates, recurrent.transpose(1, 2).contiguous(), active)
        last = x[lengths - 1, runs, torch.arange(rows.shape[1])]
        return torch.baddbmm(
            self.params["classifier.bias"][:, None], last, self.params["classifier.weight"].transpose(1, 2)
        )


def packed_logits(model: LSTMClassifier, rows: Tensor) -> Tensor:
    packed = pack_padded_sequence(model.embedding(rows), (rows != PAD).sum(1), batch_first=True)
    return model.classifier(model.lstm(packed)[1][0][-1])


def logits_in_bfloat16(model: LSTMClassifier, rows: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return model(rows)["logits"].float()


def batches(runs: int) -> Tensor:
    """Token ids (R, B, T), the longest rows first."""
    lengths = torch.randint(SHORTEST, LONGEST + 1, (runs, ROWS, 1)).sort(1, descending=True).values
    rows = torch.randint(2, VOCABULARY, (runs, ROWS, LONGEST))
    return rows.masked_fill(torch.arange(LONGEST) >= lengths, PAD)[..., : int(lengths.max())]


def milliseconds(logits: Callable[[Tensor], Tensor], params: list[Tensor], given: list[Tensor]) -> float:
    """A training step, on each of some batches."""
    optimizer = torch.optim.AdamW(params, lr=1e-3, weight_decay=0, fused=True)
    start = time.process_time()
    for number, rows in enumerate(given):
        if number == 1:  # the first one warms up
            start = time.process_time()
        found = logits(rows).flatten(0, -2)
        F.cross_entropy(found, torch.zeros(len(found), dtype=torch.long), reduction="sum").backward()
        optimizer.step()
        optimizer.zero_grad()
    return (time.process_time() - start) / (len(given) - 1) * 1000


def check(layers: int, width: int) -> None:
    """The three forms have the same logits and gradients."""
    models = [LSTMClassifier.seeded(seed, VOCABULARY, CLASSES, layers, width) for seed in range(2)]
    stack, rows = Stack(models), batches(2)
    logits = stack.logits(rows)
    logits.square().sum().backward()
    for run, model in enumerate(models):
        for found in (model(rows[run])["logits"], packed_logits(model, rows[run])):
            torch.testing.assert_close(logits[run], found, rtol=0, atol=1e-5)
        found.square().sum().backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(stack.params[name].grad[run], parameter.grad, rtol=1e-3, atol=1e-4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=32, help="in the batched form: 4 regimes x 8 seeds")
    parser.add_argument("--steps", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name, (layers, width) in ARCHITECTURES.items():
        check(layers, width)
        model = LSTMClassifier.seeded(0, VOCABULARY, CLASSES, layers, width)
        given, params = [batches(1)[0] for _ in range(args.steps + 1)], list(model.parameters())
        packed = milliseconds(lambda rows, model=model: packed_logits(model, rows), params, given)
        padded = milliseconds(lambda rows, model=model: model(rows)["logits"], params, given)
        halved = milliseconds(lambda rows, model=model: logits_in_bfloat16(model, rows), params, given)
        stack = Stack([LSTMClassifier.seeded(k, VOCABULARY, CLASSES, layers, width) for k in range(args.runs)])
        several = [batches(args.runs) for _ in range(max(2, args.steps // 4))]
        batched = milliseconds(stack.logits, list(stack.params.values()), several) / args.runs
        ratio = 4 * batched / (SHARED * padded)
        print(f"{name:10}  padded {padded:6.1f} ms; relative to it: packed {packed / padded:.1f}", end=", ")
        print(
            f"padded in bfloat16 {halved / padded:.2f}, {args.runs} runs as one {batched / padded:.1f} each", end="; "
        )
        print(f"{ratio:.1f} for a study", flush=True)


if __name__ == "__main__":
    main()
