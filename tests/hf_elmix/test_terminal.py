from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_elmix.terminal import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("F = 0-0.5 ± 1 % é 漢 👩\u200d🔬", "F = 0-0.5 ± 1 % é 漢 👩\u200d🔬"),
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("\x9b2J", r"\x9b2J"),  # the same in a single character
        ("abc\u202etxt.exe", r"abc\u202etxt.exe"),
        ("one\r\ntwo\u2028three", r"one\r\ntwo\u2028three"),
        ("half \ud800", r"half \ud800"),
    ],
)
def test_what_a_terminal_would_obey_is_shown(text, shown):
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_nothing_hidden_is_left(text):
    kinds = {unicodedata.category(sign) for sign in printable(text) if sign not in "\u200c\u200d"}
    assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}
