"""Losses of a language model's head that never hold the logits of all tokens.

With a large vocabulary the logits are the largest tensors in training: N tokens times V words, several times over. If
a loss is a function f of a token's cross entropy c, as the mixed loss is (`hf_elmix.losses.mixed`), its gradient in
the logits is f'(c) times that of cross entropy, and f'(c) is known as soon as c is. So one pass over chunks of tokens
gives the loss and all gradients, with the three matrix products that cross entropy takes, and the only large tensors
are the gradients and one chunk of logits. (The fused kernels of PyTorch and Liger do the same for cross entropy alone;
with another f they compute the logits twice: see `HeadOptions`.)

Shapes, in every function: ``hidden`` (..., D), the input of the head; ``weight`` (V, D) and ``bias`` (V,) of the head;
``labels`` (...) of word ids in [0, V) or ``ignore_index``. Ignored tokens cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypedDict, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_elmix.losses.mixed import mix
from hf_elmix.losses.reduction import check_class_ids, reduced

__all__ = ["HeadOptions", "Kernel", "LinearLoss", "linear_loss", "linear_mixed_loss"]

# Smaller chunks are slower on a CPU (tests/benchmarks/bench_linear.py --chunks), because each reads the whole weight
# and writes its whole gradient.
MIN_CHUNK = 128
HALF = (torch.float16, torch.bfloat16)

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]


class LinearLoss(NamedTuple):
    """A loss, and both terms of the mixed loss for the logs.

    Attributes:
        loss: A scalar, in float32 or wider.
        ce: Cross entropy in nats, reduced as the loss is, detached.
        el: Expectation loss, reduced as the loss is, detached.
    """

    loss: Tensor
    ce: Tensor
    el: Tensor


class HeadOptions(TypedDict, total=False):
    """The keyword arguments of both functions.

    Attributes:
        bias: Shape (V,).
        reduction: ``"mean"`` over the non-ignored labels (the default), or ``"sum"``.
        ignore_index: Label of ignored tokens; -100 by default.
        num_items: Divisor of the mean, as in `hf_elmix.losses.Reductions`.
        chunk_tokens: Tokens in a chunk; by default D / 2 and at least 128, so that its logits take half as much memory
            as the gradient of the weight.
        kernel: A function of (hidden (N, D), weight, labels (N,)) that returns the cross entropy of each token, shape
            (N,), to use instead of chunks; differentiable, also with a different factor for each token. Examples are
            ``functools.partial(torch.nn.functional.linear_cross_entropy, reduction="none", options=...)`` and the
            kernels of Liger and cut-cross-entropy. Bind any bias to the kernel.
    """

    bias: Tensor | None
    reduction: Literal["mean", "sum"]
    ignore_index: int
    num_items: int | Tensor | None
    chunk_tokens: int | None
    kernel: Kernel | None


def linear_mixed_loss(
    hidden: Tensor, weight: Tensor, labels: Tensor, alpha: float, beta: float, **options: Unpack[HeadOptions]
) -> LinearLoss:
    """`hf_elmix.losses.mixed_loss` of the logits ``hidden @ weight.T + bias``, which are never held all at once.

    Args:
        hidden: Shape (..., D).
        weight: Shape (V, D).
        labels: Shape (...), integer word ids in [0, V) or ``ignore_index``.
        alpha: Weight of the cross entropy.
        beta: Weight of the expectation loss.
        **options: See `HeadOptions`.

    Returns:
        The loss and both of its terms. A mean over no labels at all is 0, with zero gradient.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If the shapes do not match, or an argument is outside its range.
    """
    return linear_loss(hidden, weight, labels, lambda ce: mix(ce, -torch.expm1(-ce), alpha, beta), **options)


def linear_loss(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    of: Callable[[Tensor], Tensor],
    *,
    bias: Tensor | None = None,
    reduction: Literal["mean", "sum"] = "mean",
    ignore_index: int = -100,
    num_items: int | Tensor | None = None,
    chunk_tokens: int | None = None,
    kernel: Kernel | None = None,
) -> LinearLoss:
    """`linear_mixed_loss` for any function `of` of a token's cross entropy; see `HeadOptions` for the options.

    `of` returns the loss of each token from its cross entropy in nats, both of shape (n,), as
    `hf_elmix.losses.CrossEntropyFunction.of_ce` does.

    Unless gradients are off, those of `hidden`, `weight` and `bias` are computed along with the loss, and cannot be
    differentiated again (`create_graph`). A second backward pass through a retained graph recomputes them. Matrix
    products are in half precision if the weight is, or under autocast; softmax, loss and the sum of the weight's
    gradient over chunks are in float32.
    """
    _check(hidden, weight, bias, labels, reduction, chunk_tokens, kernel)
    hidden, labels = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1).long()
    tokens = labels.ne(ignore_index).nonzero().squeeze(-1)
    kind = weight.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    wide = torch.float32 if dtype in HALF else dtype
    if kernel is None or not len(tokens):
        work = _Pass(tokens, labels, of, dtype, wide, chunk_tokens or max(MIN_CHUNK, weight.shape[-1] // 2))
        if not torch.is_grad_enabled():
            hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
        sums = _InChunks.apply(hidden, weight, bias, work)
    else:
        ce = kernel(hidden[tokens].to(dtype), weight.to(dtype), labels[tokens]).to(wide)
        sums = of(ce).sum(), *_terms(ce.detach())
    counts = torch.ones_like(tokens)
    return LinearLoss(*(reduced(s, counts, reduction=reduction, num_items=num_items) for s in sums))


def _check(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    reduction: str,
    chunk_tokens: int | None,
    kernel: Kernel | None,
) -> None:
    check_class_ids(labels)
    if weight.dim() != 2 or hidden.shape != (*labels.shape, weight.shape[-1]):
        raise ValueError(
            f"Expected hidden of shape (..., D), weight (V, D) and labels (...), but got hidden "
            f"{tuple(hidden.shape)}, weight {tuple(weight.shape)} and labels {tuple(labels.shape)}."
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"Expected bias of shape ({len(weight)},), but got {tuple(bias.shape)}.")
    if bias is not None and kernel is not None:
        raise ValueError("A kernel has its own bias. Bind it with functools.partial, and leave `bias` out.")
    if chunk_tokens is not None and chunk_tokens < 1:
        raise ValueError(f"Expected chunk_tokens to be 1 or more, but got {chunk_tokens}.")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"Expected reduction to be 'mean' or 'sum', but got {reduction!r}.")


class _InChunks(torch.autograd.Function):
    """Sums of the loss, the cross entropy and the expectation loss over tokens; only the first has a gradient."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, work: _Pass) -> tuple[Tensor, ...]:
        ctx.work, ctx.needed = work, ctx.needs_input_grad[:3]
        sums, ctx.gradients = work.run(hidden, weight, bias, ctx.needed)
        ctx.save_for_backward(hidden, weight, bias)
        loss, ce, el = sums.unbind()
        ctx.mark_non_differentiable(ce, el)
        return loss, ce, el

    @staticmethod
    def backward(ctx: Any, factor: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True, to which the gradients of the forward pass are constants
            raise RuntimeError(
                "The gradients of this loss cannot be differentiated again; use mixed_loss of the logits."
            )
        # Released rather than kept, so that they can be scaled in place: a copy would be as large as the head.
        gradients, ctx.gradients = ctx.gradients, None
        inputs = ctx.saved_tensors
        if gradients is None:
            gradients = ctx.work.run(*inputs, ctx.needed)[1]
        # Scaled before they are rounded: a sum over all tokens can overflow float16 where their mean does not.
        scaled = (g if g is None else g.mul_(factor).to(x.dtype) for g, x in zip(gradients, inputs, strict=True))
        return *scaled, None


@dataclass(frozen=True)
class _Pass:
    """One pass over chunks of tokens."""

    tokens: Tensor  # indices of the non-ignored tokens, shape (n,)
    labels: Tensor  # of all tokens, shape (N,)
    of: Callable[[Tensor], Tensor]
    dtype: torch.dtype  # of the matrix products
    wide: torch.dtype  # of everything else
    size: int  # tokens in a chunk

    def run(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, needed: tuple[bool, ...]
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """The three sums, shape (3,), and the gradients of the first in the inputs that need one."""
        # A sum over several chunks needs more digits than its terms; within one chunk the matrix product sums.
        sum_type = weight.dtype if len(self.tokens) <= self.size else self.wide
        gradients = tuple(
            torch.zeros_like(x, dtype=dtype) if x is not None and wanted else None
            for x, wanted, dtype in zip((hidden, weight, bias), needed, (None, sum_type, self.wide), strict=True)
        )
        wanted = any(g is not None for g in gradients)
        sums = torch.zeros(3, dtype=self.wide, device=hidden.device)
        weight, bias = weight.to(self.dtype), None if bias is None else bias.to(self.dtype)
        for chunk in self.tokens.split(self.size):
            rows = hidden[chunk].to(self.dtype)
            logits = F.linear(rows, weight, bias).to(self.wide)
            sums += self._sums(logits, self.labels[chunk][:, None], wanted)
            if wanted:
                _add(gradients, chunk, rows, weight, logits)
        return sums, gradients

    def _sums(self, logits: Tensor, index: Tensor, wanted: bool) -> Tensor:
        """The three sums for a chunk of logits, which are overwritten by the gradient of the first if `wanted`."""
        logits -= logits.amax(-1, keepdim=True)
        of_label = logits.gather(-1, index)
        total = logits.exp_().sum(-1, keepdim=True)
        ce = (total.log() - of_label).squeeze(-1)
        if not wanted:
            return torch.stack((self.of(ce).sum(), *_terms(ce)))
        with torch.enable_grad():
            loss = self.of(ce.requires_grad_())
            (slope,) = torch.autograd.grad(loss.sum(), ce)
        # slope * (p - [j = y]), where the softmax p is the exponentials divided by their total
        logits.mul_(slope[:, None] / total).scatter_add_(-1, index, -slope[:, None])
        return torch.stack((loss.detach().sum(), *_terms(ce)))


def _terms(ce: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the cross entropy and of the expectation loss."""
    return ce.sum(), -torch.expm1(-ce).sum()


def _add(gradients: tuple[Tensor | None, ...], chunk: Tensor, rows: Tensor, weight: Tensor, slopes: Tensor) -> None:
    """Propagate the gradient in a chunk's logits to the inputs."""
    in_hidden, in_weight, in_bias = gradients
    if in_bias is not None:
        in_bias += slopes.sum(0)
    slopes = slopes.to(rows.dtype)
    if in_hidden is not None:
        in_hidden[chunk] = (slopes @ weight).to(in_hidden.dtype)
    if in_weight is None:
        return
    if in_weight.dtype == rows.dtype:
        in_weight.addmm_(slopes.T, rows)
    else:
        in_weight += slopes.T @ rows
