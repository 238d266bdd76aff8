from __future__ import annotations

import pytest

from hf_elmix.cli.methods import parse_methods, parse_sweeps
from hf_elmix.errors import UsageError


def described(*words: str, losses: tuple[str, ...] = (), sweeps: tuple[str, ...] = ()) -> list[tuple]:
    return [
        (method.name, str(method.loss), dict(method.arguments), [dict(one) for one in method.sweep])
        for method in parse_methods(losses, words, parse_sweeps(sweeps))
    ]


def test_methods_in_words():
    assert described("wd:weight_decay=0.1") == [("wd", "ce", {"weight_decay": 0.1}, [])]
    assert described("a:loss=focal:gamma=2,alpha=0.25,label_smoothing_factor=0.1") == [
        ("a", "focal:gamma=2,alpha=0.25", {"label_smoothing_factor": 0.1}, [])
    ]
    assert described("a:num_train_epochs=2,loss=gce:q=0.7,k=0.5") == [
        ("a", "gce:q=0.7,k=0.5", {"num_train_epochs": 2.0}, [])
    ]
    assert [name for name, *_ in described("wd:weight_decay=0.1", losses=("el", "el", "0"))] == ["el", "0", "wd"]


def test_sweeps_are_multiplied():
    (found,) = described(losses=("ce",), sweeps=("learning_rate=1e-5,2e-5", "num_train_epochs=1,2"))
    assert found[3] == [
        {"learning_rate": rate, "num_train_epochs": epochs} for rate in (1e-5, 2e-5) for epochs in (1.0, 2.0)
    ]


def test_methods_in_a_file(tmp_path):
    path = tmp_path / "methods.yaml"
    path.write_text(
        "wd: {weight_decay: 0.1}\nmixed: {loss: '0,0.5', learning_rate: 1.0e-4, gradient_checkpointing: true}\n"
    )
    assert described(str(path)) == [
        ("wd", "ce", {"weight_decay": 0.1}, []),
        ("mixed", "mix:0,0.5", {"learning_rate": 1e-4, "gradient_checkpointing": True}, []),
    ]
    bomb = "a: &a {x: 1}\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    for text, message in (
        ("wd: {weight_decay: 0.1}\nwd: {weight_decay: 0.2}\n", "it gives 'wd' 2 times"),
        (bomb, "it refers to a part of itself"),
        ("a: " + "[" * 20_000, "maximum recursion depth"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=message):
            described(str(path))
    path.write_text("wd: {run: 2020-01-01}\n")
    with pytest.raises(UsageError, match="Unknown argument '--run'"):
        described(str(path))
    path.write_text("- wd\n")
    with pytest.raises(UsageError, match="to map each method to its arguments, as in 'wd: {weight_decay: 0.1}'"):
        described(str(path))


@pytest.mark.parametrize(
    ("sweeps", "given", "message"),
    [
        (["learning_rate=1,2"], ["learning_rate"], "Expected --learning_rate or --sweep learning_rate=…, but got"),
        (["learning_rate=1", " learning_rate =2"], [], "Expected --sweep learning_rate=… once, with all values"),
        (["learning_rate"], [], "Expected --sweep like learning_rate=1e-5,2e-5, but got 'learning_rate'"),
    ],
)
def test_sweeps_that_contradict_something(sweeps, given, message):
    with pytest.raises(UsageError, match=message):
        parse_sweeps(sweeps, given)


def test_a_swept_argument_is_not_that_of_a_method_too():
    with pytest.raises(UsageError, match="Expected learning_rate in --sweep or in the method 'slow', but got both"):
        described("slow:loss=el,learning_rate=1e-5", sweeps=("learning_rate=1e-4,1e-3",))
