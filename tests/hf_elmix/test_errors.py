from __future__ import annotations

import pytest

from hf_elmix.errors import UsageError, in_one_line, not_one_of


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no such file"), "no such file."),
        (ValueError("first\n\n  second!\n"), "first second!"),
        (ValueError("1\n2\n3\n4"), "1 2 3."),
        (caused(ValueError("it failed"), KeyError("x")), "it failed 'x'."),
        (OSError(), "OSError."),
    ],
)
def test_in_one_line(error, line):
    assert in_one_line(error) == line


def test_a_users_mistake_is_a_value_error():
    assert issubclass(UsageError, ValueError)


def test_a_name_outside_a_closed_list():
    error = not_one_of("the task", ["CoLA", "mrpc"], "cloa")
    assert str(error) == "Expected the task to be one of CoLA, mrpc, but got 'cloa'. Did you mean 'CoLA'?"
    words = not_one_of("the task", ["cola", "0,0.5", "0-0.5"], "cola,0,0.5, 0-0.5")
    assert str(words).endswith("but got 'cola,0,0.5, 0-0.5'. Type them as separate words: cola 0,0.5 0-0.5.")
    assert ", … (99 in all), but got 'x'." in str(not_one_of("it", map(str, range(99)), "x"))
