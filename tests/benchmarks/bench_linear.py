"""Forward and backward pass of the loss of a head of 128k words, relative to `F.cross_entropy` of its logits.

    python tests/benchmarks/bench_linear.py [--dtype bfloat16] [--chunks 32 64 128 256]

Times are processor times, measured in alternation with `F.cross_entropy` (pairs.py). Memory is the largest resident
size of the process during a step, minus its size before: this includes the gradients and whatever a kernel allocates
outside tensors, which a profiler of tensors would not see. It is counted by Linux (proc(5): VmHWM, reset by
clear_refs).
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from pairs import compare, report
from torch import Tensor, nn

from hf_elmix import mixed_loss
from hf_elmix.losses.linear import MIN_CHUNK, linear_mixed_loss

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
WEIGHTS = (1.0, 2.5)  # of focus 0.3


def materialised(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(hidden @ weight.T, labels)


def linear(alpha: float = WEIGHTS[0], beta: float = WEIGHTS[1], **options: object) -> Loss:
    return lambda h, w, y: linear_mixed_loss(h, w, y, alpha, beta, **options).loss


def peers(chunk: int) -> dict[str, Loss]:
    """The measured losses, by name."""
    # With the same chunk: its default is a few tokens for such a shape, which takes a CPU several times as long.
    options = nn.LinearCrossEntropyOptions(chunking_method=None, batch_chunk_size=chunk)
    pytorchs = functools.partial(F.linear_cross_entropy, options=options)
    found = {
        "mixed_loss of the logits": lambda h, w, y: mixed_loss(h @ w.T, y, *WEIGHTS),
        "linear_mixed_loss": linear(),
        "linear_mixed_loss, beta=0": linear(1.0, 0.0),
        "F.linear_cross_entropy": pytorchs,
        "linear_mixed_loss, that as kernel": linear(kernel=functools.partial(pytorchs, reduction="none")),
    }
    if importlib.util.find_spec("cut_cross_entropy"):
        from cut_cross_entropy import linear_cross_entropy

        cut = functools.partial(linear_cross_entropy, impl="torch_compile")
        found["cut-cross-entropy, torch_compile"] = cut
        found["linear_mixed_loss, cut as kernel"] = linear(kernel=functools.partial(cut, reduction="none"))
    return found


def step(loss: Loss, hidden: Tensor, weight: Tensor, labels: Tensor) -> Callable[[], None]:
    def run() -> None:
        hidden.grad = weight.grad = None
        loss(hidden, weight, labels).backward()

    return run


def peak(run: Callable[[], None], *inputs: Tensor) -> float:
    """MiB that a step adds to the size of the process, at most."""
    for tensor in inputs:
        tensor.grad = None
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory that was freed but kept would hide new allocations
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    run()
    return memory("VmHWM") - before


def memory(name: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--words", type=int, default=128 * 1024)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--chunks", type=int, nargs="*", help="compare these sizes of a chunk instead")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    hidden = torch.randn(args.tokens, args.width).to(dtype).requires_grad_()
    weight = (0.02 * torch.randn(args.words, args.width)).to(dtype).requires_grad_()
    labels = torch.randint(args.words, (args.tokens,))
    print(
        f"{args.tokens} tokens x {args.width}, {args.words} words, {args.dtype}, {args.threads} threads; peer: ",
        end="",
    )
    peer = step(materialised, hidden, weight, labels)
    peer()
    print(f"F.cross_entropy, {peak(peer, hidden, weight):.0f} MiB")
    chunks = {f"linear_mixed_loss, chunk of {n}": linear(chunk_tokens=n) for n in args.chunks or ()}
    for name, loss in (chunks or peers(max(MIN_CHUNK, args.width // 2))).items():
        ours = step(loss, hidden, weight, labels)
        report(name, *compare(ours, peer, args.pairs))
        print(f"{'':40} {peak(ours, hidden, weight):9.0f} MiB")


if __name__ == "__main__":
    main()
