from __future__ import annotations

import functools
import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hf_elmix.losses import Focal, GeneralizedCrossEntropy, MeanAbsoluteError, mixed_loss
from hf_elmix.losses.linear import linear_loss, linear_mixed_loss

WORDS, WIDTH = 37, 8
WEIGHTS = [(1.0, 0.0), (0.0, 1.0), (1.0, 2.5)]
CLOSE = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 2e-2}


def head(*shape: int, dtype: torch.dtype = torch.float64, ignored: bool = True, scale: float = 1.0):
    """Hidden states, weight, bias and labels; three tenths of the labels are ignored."""
    generator = torch.Generator().manual_seed(len(shape))
    draw = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
    tensors = (scale * draw(*shape, WIDTH), scale * draw(WORDS, WIDTH), draw(WORDS))
    labels = torch.randint(WORDS, shape, generator=generator)
    if ignored:
        labels[torch.rand(shape, generator=generator) < 0.3] = -100
    return *(t.to(dtype).requires_grad_() for t in tensors), labels


def same(ours, theirs, inputs, dtype=torch.float64):
    """Value and gradients, against the largest gradient of each input."""
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs, rtol=CLOSE[dtype], atol=CLOSE[dtype])
    ours, theirs = (torch.autograd.grad(loss, inputs) for loss in (ours, theirs))
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert (a - b).abs().max() <= CLOSE[dtype] * max(1, b.abs().max())


@pytest.mark.parametrize(("alpha", "beta"), WEIGHTS)
@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("chunk", [1, 4, 100, None])
@pytest.mark.parametrize("biased", [False, True])
def test_equals_the_loss_of_the_logits(alpha, beta, dtype, chunk, biased):
    hidden, weight, bias, labels = head(3, 7, dtype=dtype)
    bias = bias if biased else None
    inputs = (hidden, weight) if bias is None else (hidden, weight, bias)
    for how in ({}, {"reduction": "sum"}, {"num_items": 50}, {"num_items": torch.tensor([20, 30])}):
        ours = linear_mixed_loss(hidden, weight, labels, alpha, beta, bias=bias, chunk_tokens=chunk, **how)
        logits = F.linear(hidden, weight, bias)
        same(ours.loss, mixed_loss(logits, labels, alpha, beta, **how), inputs, dtype)
        for term, weights in ((ours.ce, (1.0, 0.0)), (ours.el, (0.0, 1.0))):
            expected = mixed_loss(logits.detach(), labels, *weights, **how)
            torch.testing.assert_close(term, expected, rtol=CLOSE[dtype], atol=CLOSE[dtype])
            assert not term.requires_grad


@pytest.mark.parametrize("shape", [(), (6,), (2, 3, 2)])
def test_shapes_and_label_types(shape):
    hidden, weight, _, labels = head(*shape, ignored=False)
    expected = mixed_loss(hidden @ weight.T, labels, 1.0, 1.0)
    same(linear_mixed_loss(hidden, weight, labels.int(), 1.0, 1.0).loss, expected, (hidden, weight))
    ignored = labels.flatten()[:1] if shape else torch.tensor([-1])
    expected = mixed_loss(hidden @ weight.T, labels, 1.0, 1.0, ignore_index=int(ignored))
    ours = linear_mixed_loss(hidden, weight, labels, 1.0, 1.0, ignore_index=int(ignored)).loss
    same(ours, expected, (hidden, weight))


@pytest.mark.parametrize("chunk", [1, 3])
def test_gradients_are_those_of_finite_differences(chunk):
    hidden, weight, bias, labels = head(5)

    def loss(*inputs):
        return linear_mixed_loss(*inputs[:2], labels, 1.0, 2.5, bias=inputs[2], chunk_tokens=chunk).loss

    assert torch.autograd.gradcheck(loss, (hidden, weight, bias), fast_mode=True)


@pytest.mark.parametrize("loss", [Focal(), MeanAbsoluteError(), GeneralizedCrossEntropy(k=0.1)], ids=str)
def test_any_function_of_cross_entropy(loss):
    hidden, weight, _, labels = head(20)
    ours = linear_loss(hidden, weight, labels, loss.of_ce, chunk_tokens=6).loss
    same(ours, loss(hidden @ weight.T, labels), (hidden, weight))


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_gradients_only_for_inputs_that_need_one(wanted):
    *inputs, labels = head(9)
    for tensor, want in zip(inputs, wanted, strict=True):
        tensor.requires_grad_(want)
    wants = next(t for t, want in zip(inputs, wanted, strict=True) if want)
    linear_mixed_loss(*inputs[:2], labels, 1.0, 1.0, bias=inputs[2], chunk_tokens=2).loss.backward()
    assert [t.grad is not None for t in inputs] == list(wanted)
    expected = mixed_loss(F.linear(*inputs), labels, 1.0, 1.0)
    torch.testing.assert_close(wants.grad, torch.autograd.grad(expected, wants)[0], rtol=1e-12, atol=1e-14)


class Products(TorchDispatchMode):
    """Counts the products of matrices, and the rows of the largest logits among them."""

    def __init__(self):
        super().__init__()
        self.count, self.rows = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_):
            self.count += 1
            self.rows = max(self.rows, len(result)) if result.shape[-1] == WORDS else self.rows
        return result


def test_costs_the_three_products_of_cross_entropy_and_a_chunk_of_logits():
    hidden, weight, _, labels = head(12, ignored=False)
    with Products() as seen:
        linear_mixed_loss(hidden, weight, labels, 1.0, 1.0, chunk_tokens=4).loss.backward()
    assert (seen.count, seen.rows) == (3 * 3, 4)
    with Products() as seen, torch.no_grad():
        loss = linear_mixed_loss(hidden, weight, labels, 1.0, 1.0, chunk_tokens=4).loss
    assert (seen.count, seen.rows) == (3, 4)
    assert not loss.requires_grad
    labels[2:] = -100
    with Products() as seen:
        linear_mixed_loss(hidden, weight, labels, 1.0, 1.0).loss.backward()
    assert (seen.count, seen.rows) == (3, 2)


@pytest.mark.parametrize(("width", "rows"), [(8, 128), (400, 200)])
def test_a_chunk_is_half_as_many_tokens_as_the_head_is_wide(width, rows):
    hidden, weight = torch.zeros(300, width), torch.zeros(WORDS, width)
    with Products() as seen:
        linear_mixed_loss(hidden, weight, torch.zeros(300, dtype=torch.long), 1.0, 1.0)
    assert seen.rows == rows


def test_the_gradient_is_not_copied():
    """A copy of it would be as large as the head."""
    hidden, weight, _, labels = head(12, dtype=torch.float32)
    loss = linear_mixed_loss(hidden, weight, labels, 1.0, 1.0).loss
    function = loss.grad_fn
    while not hasattr(function, "gradients"):
        function = function.next_functions[0][0]
    place = function.gradients[1].data_ptr()
    loss.backward()
    assert weight.grad.data_ptr() == place
    assert function.gradients is None


def test_any_factor_and_a_retained_graph():
    hidden, weight, _, labels = head(12)
    loss = linear_mixed_loss(hidden, weight, labels, 1.0, 2.5, chunk_tokens=5).loss
    expected = torch.autograd.grad(mixed_loss(hidden @ weight.T, labels, 1.0, 2.5), (hidden, weight))
    for factor in (3.0, -0.5, 0.0):
        ours = torch.autograd.grad(factor * loss, (hidden, weight), retain_graph=True)
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a, factor * b, rtol=1e-12, atol=1e-14)


def test_is_differentiated_once_only():
    hidden, weight, _, labels = head(4)
    loss = linear_mixed_loss(hidden, weight, labels, 1.0, 1.0).loss
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        torch.autograd.grad(loss, hidden, create_graph=True)


@pytest.mark.parametrize("shape", [(0,), (5,)])
@pytest.mark.parametrize("num_items", [None, 0])
@pytest.mark.parametrize("kernel", [None, F.linear_cross_entropy])
def test_a_mean_over_no_labels_is_0_with_zero_gradient(shape, num_items, kernel):
    hidden, weight, _, labels = head(*shape)
    loss, ce, el = linear_mixed_loss(hidden, weight, labels.fill_(-100), 1.0, 1.0, num_items=num_items, kernel=kernel)
    assert loss == ce == el == 0
    for tensor in (hidden, weight):
        assert torch.equal(torch.autograd.grad(loss, tensor, retain_graph=True)[0], torch.zeros_like(tensor))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("alpha", "beta"), WEIGHTS)
def test_extreme_logits_stay_finite(dtype, alpha, beta):
    hidden, weight, _, labels = head(30, dtype=dtype, scale=50)
    assert (hidden @ weight.T).float().std() > 5e3
    loss = linear_mixed_loss(hidden, weight, labels, alpha, beta, chunk_tokens=7).loss
    torch.testing.assert_close(loss, mixed_loss(hidden @ weight.T, labels, alpha, beta), rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad(loss, (hidden, weight))
    assert all(g.isfinite().all() for g in gradients)
    assert all(g.abs().sum() > 0 for g in gradients) or not alpha


@pytest.mark.parametrize("chunk", [4, 100])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(chunk, dtype):
    hidden, weight, _, labels = head(40, dtype=torch.float32)
    with torch.autocast("cpu", dtype):
        ours = linear_mixed_loss(hidden, weight, labels, 1.0, 2.5, chunk_tokens=chunk).loss
        theirs = mixed_loss(hidden @ weight.T, labels, 1.0, 2.5)
    torch.testing.assert_close(ours, theirs)
    exact = torch.autograd.grad(mixed_loss(hidden @ weight.T, labels, 1.0, 2.5), (hidden, weight))
    ours, theirs = (torch.autograd.grad(loss, (hidden, weight)) for loss in (ours, theirs))
    for a, b, c in zip(ours, theirs, exact, strict=True):
        assert a.dtype == torch.float32
        assert (a - c).norm() <= 1.2 * (b - c).norm()  # as accurate as with all logits


def test_a_mean_in_float16_does_not_overflow_in_its_sum():
    hidden, weight = torch.full((1000, WIDTH), 100.0).half(), torch.zeros(WORDS, WIDTH).half().requires_grad_()
    labels = torch.zeros(1000, dtype=torch.long)
    linear_mixed_loss(hidden, weight, labels, 1.0, 0.0, chunk_tokens=50).loss.backward()
    torch.testing.assert_close(weight.grad[0], torch.full((WIDTH,), -100 * (1 - 1 / WORDS)).half(), rtol=1e-3, atol=0)


def test_the_weights_gradient_is_summed_in_float32():
    """With bfloat16 sums over many chunks, small terms would be lost in a large sum."""
    hidden, weight = torch.ones(600, WIDTH, dtype=torch.bfloat16), torch.zeros(WORDS, WIDTH, dtype=torch.bfloat16)
    weight.requires_grad_()
    labels = torch.zeros(600, dtype=torch.long)
    linear_mixed_loss(hidden, weight, labels, 1.0, 0.0, reduction="sum", chunk_tokens=1).loss.backward()
    torch.testing.assert_close(
        weight.grad[0], torch.full((WIDTH,), -600 * (1 - 1 / WORDS)).bfloat16(), rtol=1e-2, atol=0
    )


def by_hand(hidden, weight, labels, alpha, beta):
    """Loss and gradients token by token, from the softmax (Eqs. 12 and 13)."""
    in_hidden, in_weight, loss = torch.zeros_like(hidden), torch.zeros_like(weight), 0.0
    for i, y in enumerate(labels.tolist()):
        if y == -100:
            continue
        p = torch.softmax(weight @ hidden[i], 0)
        loss += alpha * -p[y].log() + beta * (1 - p[y])
        slope = (alpha + beta * p[y]) * (p - F.one_hot(torch.tensor(y), len(p)))
        in_hidden[i] = slope @ weight
        in_weight += torch.outer(slope, hidden[i])
    return loss, in_hidden, in_weight


def test_a_step_written_by_hand():
    hidden, weight, _, labels = head(11)
    loss, in_hidden, in_weight = by_hand(hidden.detach(), weight.detach(), labels, 1.0, 2.5)
    ours = linear_mixed_loss(hidden, weight, labels, 1.0, 2.5, reduction="sum", chunk_tokens=4).loss
    ours.backward()
    torch.testing.assert_close(ours.detach(), loss, rtol=1e-13, atol=0)
    torch.optim.SGD([hidden, weight], lr=0.1).step()
    before, weight_before, *_ = head(11)
    torch.testing.assert_close(hidden.detach(), before.detach() - 0.1 * in_hidden, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(weight.detach(), weight_before.detach() - 0.1 * in_weight, rtol=1e-12, atol=1e-14)


def pytorchs():
    options = nn.LinearCrossEntropyOptions(chunking_method=None, batch_chunk_size=4)
    return functools.partial(F.linear_cross_entropy, reduction="none", options=options)


def apples():
    module = pytest.importorskip("cut_cross_entropy")
    return functools.partial(module.linear_cross_entropy, reduction="none", impl="torch_compile")


def ligers():
    """Its Triton kernels need a GPU, or TRITON_INTERPRET=1 in the environment."""
    module = pytest.importorskip("liger_kernel.transformers.functional")
    if not torch.cuda.is_available() and not importlib.import_module("triton").knobs.runtime.interpret:
        pytest.skip("no GPU, and TRITON_INTERPRET is not set")
    return functools.partial(module.liger_fused_linear_cross_entropy, reduction="none")


@pytest.mark.parametrize("made", [pytorchs, apples, ligers])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fused_kernel_for_the_cross_entropy(made, dtype):
    device = "cuda" if made is ligers and torch.cuda.is_available() else "cpu"
    hidden, weight, _, labels = (t.to(device).detach() for t in head(3, 7, dtype=dtype))
    inputs = (hidden.requires_grad_(), weight.requires_grad_())
    ours = linear_mixed_loss(*inputs, labels, 1.0, 2.5, kernel=made())
    same(ours.loss, mixed_loss(hidden @ weight.T, labels, 1.0, 2.5), inputs, dtype)
    plain = linear_mixed_loss(*inputs, labels, 1.0, 2.5)
    torch.testing.assert_close(ours[1:], plain[1:], rtol=CLOSE[dtype], atol=CLOSE[dtype])
    assert not ours.ce.requires_grad
    assert not ours.el.requires_grad


def test_a_kernel_under_autocast_gets_what_autocast_would_multiply():
    hidden, weight, _, labels = head(9, dtype=torch.float32)
    types = []

    def kernel(hidden, weight, labels):
        types.extend((hidden.dtype, weight.dtype))
        return pytorchs()(hidden, weight, labels)

    with torch.autocast("cpu", torch.bfloat16):
        ours = linear_mixed_loss(hidden, weight, labels, 1.0, 2.5, kernel=kernel).loss
        theirs = mixed_loss(hidden @ weight.T, labels, 1.0, 2.5)
    assert types == [torch.bfloat16] * 2
    same(ours, theirs, (hidden, weight), torch.bfloat16)


@pytest.mark.parametrize(
    ("shapes", "given", "message"),
    [
        (((4, 3), (5, 3), (5,)), {}, r"hidden \(4, 3\), weight \(5, 3\) and labels \(5,\)"),
        (((4, 2), (5, 3), (4,)), {}, r"hidden \(4, 2\), weight \(5, 3\)"),
        (((4, 3), (3,), (4,)), {}, r"weight \(3,\)"),
        (((4, 3), (5, 3), (4,)), {"bias": torch.zeros(4)}, r"bias of shape \(5,\), but got \(4,\)"),
        (((4, 3), (5, 3), (4,)), {"bias": torch.zeros(5), "kernel": F.linear_cross_entropy}, "leave `bias` out"),
        (((4, 3), (5, 3), (4,)), {"chunk_tokens": 0}, "1 or more, but got 0"),
        (((4, 3), (5, 3), (4,)), {"reduction": "none"}, "'mean' or 'sum', but got 'none'"),
        (((4, 3), (5, 3), (4,)), {"reduction": "sum", "num_items": 3}, "not used with reduction"),
        (((4, 3), (5, 3), (4,)), {"num_items": -1}, "0 or more, but got -1"),
    ],
)
def test_mistakes_are_refused(shapes, given, message):
    hidden, weight, labels = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        linear_mixed_loss(hidden, weight, labels.long(), 1.0, 1.0, **given)
    with pytest.raises(TypeError, match=r"integer class ids, but got torch\.float32"):
        linear_mixed_loss(hidden, weight, labels, 1.0, 1.0, **given)
