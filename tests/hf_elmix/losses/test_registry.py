from __future__ import annotations

import pickle
import subprocess
import sys
from importlib import metadata
from importlib.metadata import EntryPoint

import pytest
import torch
import torch.nn.functional as F

from hf_elmix import losses
from hf_elmix.errors import UsageError
from hf_elmix.losses import CrossEntropyFunction, Focal, Mixed, RescaledCrossEntropy, registry
from hf_elmix.losses.registry import LOSS_SETS, expand_losses, parse_loss, register_loss
from hf_elmix.losses.schedules import MixingSchedule

LOGITS = 3 * torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(4, (20,), generator=torch.Generator().manual_seed(1))
LABELS[::6] = -100

# What is typed, the canonical text, and the function it stands for.
TEXTS = [
    ("ce", "ce", (losses.cross_entropy, {})),
    ("el", "el", (losses.expectation_loss, {})),
    ("0-0.5", "mix:0-0.5", (losses.mixed_loss, {"alpha": 1, "beta": 1})),
    ("mix:0.4", "mix:0.4", (losses.mixed_loss, {"alpha": 1, "beta": 5})),
    ("mix:1:0", "ce", (losses.cross_entropy, {})),
    ("mix:0,0.5", "mix:0,0.5", (losses.mixed_loss, {"alpha": 1, "beta": 1})),
    ("1:3@0 ce@0.5", "mix:1/3 1:0", (losses.mixed_loss, {"alpha": 1, "beta": 3})),
    ("focal", "focal:gamma=2,alpha=1", (losses.focal_loss, {"gamma": 2})),
    ("focal:gamma=2,alpha=0.25", "focal:gamma=2,alpha=0.25", (losses.focal_loss, {"gamma": 2, "alpha": 0.25})),
    (" Focal: alpha=0.25 ", "focal:gamma=2,alpha=0.25", (losses.focal_loss, {"gamma": 2, "alpha": 0.25})),
    ("gce:q=0.7", "gce:q=0.7", (losses.generalized_cross_entropy, {"q": 0.7})),
    ("gce:q=0.7,k=0.5", "gce:q=0.7,k=0.5", (losses.generalized_cross_entropy, {"q": 0.7, "k": 0.5})),
    ("tce:a=0.2", "tce:a=0.2", (losses.tamed_cross_entropy, {"a": 0.2})),
    ("mae", "mae", (losses.mae_loss, {})),
    ("mpce", "mpce", (losses.mpce_loss, {})),
    ("ce-rescaled:0-0.5", "ce-rescaled:0-0.5", (losses.cross_entropy, {})),
    ("ce-rescaled:0,0.5,logit=other", "ce-rescaled:0,0.5,logit=other", (losses.cross_entropy, {})),
    ("ce-rescaled:0,logit=true", "ce-rescaled:0", (losses.cross_entropy, {})),
]


def absolute(logits: torch.Tensor, labels: torch.Tensor, power: float = 1.0, note: str = "") -> torch.Tensor:
    """A custom loss."""
    assert (labels >= 0).all()
    return F.cross_entropy(logits, labels, reduction="none") ** power


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    register_loss("absolute", absolute)


@pytest.mark.parametrize(("typed", "canonical", "function"), TEXTS)
def test_each_text_names_a_function(typed, canonical, function):
    loss = parse_loss(typed)
    assert str(loss) == canonical
    assert parse_loss(canonical) == loss == parse_loss(loss)
    expected = function[0](LOGITS, LABELS, reduction="none", **function[1])
    first = loss.at(0, 1)
    torch.testing.assert_close(first(LOGITS, LABELS, reduction="none"), expected)
    assert isinstance(first, CrossEntropyFunction) != (function[0] is losses.mpce_loss)
    if isinstance(first, CrossEntropyFunction):
        ce = F.cross_entropy(LOGITS, LABELS, reduction="none")
        torch.testing.assert_close(first.of_ce(ce), expected)
    assert pickle.loads(pickle.dumps(loss)) == loss  # as it is sent to workers


def test_the_papers_six_methods():
    names = expand_losses(["table4", "gce:q=0.7", "ce"])
    assert names == ["ce", "0", "0,0.5", "0-0.5", "el", "focal:gamma=2,alpha=0.25", "gce:q=0.7"]
    assert len({parse_loss(name) for name in LOSS_SETS["table4"]}) == 6


@pytest.mark.usefixtures("registered")
def test_a_custom_loss():
    loss = parse_loss("absolute:power=2").at(0, 1)
    assert str(loss) == "absolute:power=2"
    assert str(parse_loss(absolute)) == "absolute:power=1"
    ce = losses.cross_entropy(LOGITS, LABELS, reduction="none")
    torch.testing.assert_close(loss(LOGITS, LABELS, reduction="none"), ce**2)
    shaped = loss(LOGITS.reshape(4, 5, 4).bfloat16(), LABELS.reshape(4, 5), reduction="none")
    assert shaped.shape == (4, 5)
    assert shaped.dtype == torch.float32
    logits = LOGITS.clone().requires_grad_()
    assert loss(logits, torch.full((20,), -100)).requires_grad  # no label of the batch counts
    register_loss("absolute", absolute)  # again, as a module that is reloaded does
    for name, function in (("absolute", F.cross_entropy), ("focal", absolute), ("My Loss", absolute)):
        with pytest.raises(UsageError, match="Expected a name of lower-case letters"):
            register_loss(name, function)


@pytest.mark.parametrize("classes", [2, 3, 77])
def test_a_custom_loss_with_weights_of_classes(classes):
    weight = torch.rand(classes) + 0.5

    def weighted(logits, labels):
        return F.cross_entropy(logits, labels, weight=weight, reduction="none")

    logits, labels = torch.randn(5, classes), torch.arange(5) % classes
    loss = parse_loss(weighted).at(0, 1)(logits, labels, reduction="none")
    torch.testing.assert_close(loss, weighted(logits, labels))


def test_a_loss_of_an_installed_package(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    point = EntryPoint("theirs", f"{__name__}:absolute", "hf_elmix.losses")
    broken = EntryPoint("broken", "no_such_module:loss", "hf_elmix.losses")
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or type(sys)(__name__))
    monkeypatch.setattr(sys.modules[__name__], "absolute", absolute, raising=False)
    monkeypatch.setattr(metadata, "entry_points", lambda group: (point, broken) if group == "hf_elmix.losses" else ())
    assert str(parse_loss("theirs:power=3")) == "theirs:power=3"
    with pytest.raises(UsageError, match="Cannot load the loss 'broken' from no_such_module:loss: No module"):
        parse_loss("broken")
    with pytest.raises(UsageError, match="ce, el, mix, .*theirs, broken"):
        parse_loss("nothing")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("focl", "Unknown loss 'focl'. Expected .*, or one of ce, el, mix, .* Did you mean 'focal'"),
        ("mxi:0-0.5", "Did you mean 'mix'"),
        ("focal:q=2", r"Unknown loss 'focal:q=2' \(its arguments are gamma, alpha\)"),
        ("mae:q=2", "its arguments are none"),
        ("focal:2", "arguments look like gamma=2,alpha=0.25"),
        ("focal:gamma=two", "arguments look like"),
        ("focal:gamma=1,gamma=2", "an argument is given twice"),
        ("focal:gamma=-1", "Cannot use the loss 'focal:gamma=-1': Expected gamma to be 0 or more"),
        ("gce:q=2", r"Expected q to be in \[0, 1\]"),
        ("mix:0-0.6", "Unknown mixing '0-0.6'"),
        ("mix:", "Unknown mixing ''"),
        ("0-0.6", "Unknown mixing '0-0.6'"),
        ("", "Unknown mixing ''"),
        ("ce-rescaled:0,logit=some", "logit to be true or other, but got 'some'"),
        ("ce-rescaled:", "Unknown mixing ''"),
        ("cot:a=1", "its arguments are none"),
        ("mmc:q=1", "its arguments are scale"),
        ("mmc:scale=0", "scale to be above 0, but got 0"),
        (None, "Expected mixing to be a string"),
        (lambda logits, labels: F.cross_entropy(logits, labels), "one number for each sample"),
        (lambda logits, labels: 1 / 0, "Cannot use the loss '<lambda>': division by zero"),
    ],
)
def test_mistakes_are_refused(text, message):
    with pytest.raises(UsageError, match=message):
        parse_loss(text)


def test_naming_a_loss_needs_no_pytorch():
    code = "import sys; from hf_elmix import parse_loss as p; p('0-0.5'), p('focal'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_mixed_loss_from_a_number_or_a_schedule():
    assert parse_loss(0.3) == MixingSchedule.parse("0.3") == parse_loss(MixingSchedule.parse(0.3))
    assert parse_loss(0.3) == parse_loss(Mixed(1, 2.5)) == MixingSchedule.parse("mix:0.3")
    assert parse_loss(RescaledCrossEntropy(1, 2.5)) == parse_loss("ce-rescaled:0.3")
    assert parse_loss(Focal(gamma=2)) == parse_loss("focal")
