"""Forward and backward pass of the mixed loss, relative to `F.cross_entropy`: python tests/benchmarks/bench_loss.py.

The obvious implementation, with a separate softmax, shows what the identity p_y = exp(-CE) saves.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from pairs import compare, report
from torch import Tensor

from hf_elmix import mixed_loss


def two_softmaxes(logits: Tensor, labels: Tensor) -> Tensor:
    """CE + EL from a cross entropy and a softmax."""
    p_y = logits.softmax(-1).gather(-1, labels[:, None]).squeeze(-1)
    return F.cross_entropy(logits, labels) + (1 - p_y).mean()


def step(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor) -> Callable[[], None]:
    def run() -> None:
        logits.grad = None
        loss(logits, labels).backward()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for rows, classes in ((2048, 30522), (32, 2)):
        torch.manual_seed(0)
        logits = torch.randn(rows, classes, requires_grad=True)
        labels = torch.randint(classes, (rows,))
        peer = step(F.cross_entropy, logits, labels)
        for name, loss in {
            "mixed_loss": lambda q, y: mixed_loss(q, y, 1.0, 1.0),
            "CE and a second softmax": two_softmaxes,
        }.items():
            ours = step(loss, logits, labels)
            report(f"{name}, {rows} x {classes}", *compare(ours, peer, args.pairs if rows > 100 else 100 * args.pairs))


if __name__ == "__main__":
    main()
