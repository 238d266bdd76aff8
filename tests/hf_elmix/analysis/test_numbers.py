from __future__ import annotations

import math

from hf_elmix.analysis.numbers import (
    counted,
    first_upper,
    gain_text,
    interval_text,
    number,
    p_equals,
    pvalue_text,
)

NAN = math.nan


def test_numbers_as_they_are_written():
    assert [gain_text(value, 100) for value in (0.0031, -0.0005, 0, NAN)] == ["+0.31", "−0.05", "+0.00", "n/a"]
    assert [number(value) for value in (-1.005, 2, NAN)] == ["−1.00", "2.00", "n/a"]
    assert number(0.12345, 3) == "0.123"
    assert interval_text(-0.0005, 0.0058, 100) == "[−0.05, 0.58]"
    assert interval_text(NAN, NAN, 100) == ""
    assert [pvalue_text(p) for p in (0.0004, 0.001, 0.0496, 1, NAN)] == ["< 0.001", "0.001", "0.050", "1.000", "n/a"]
    assert [p_equals(p) for p in (0.0004, 0.0496, NAN)] == ["p < 0.001", "p = 0.050", "p = n/a"]
    assert [counted(count, "block") for count in (0, 1, 2000)] == ["0 blocks", "1 block", "2,000 blocks"]
    assert [first_upper(text) for text in ("", "ab", "AB")] == ["", "Ab", "AB"]
