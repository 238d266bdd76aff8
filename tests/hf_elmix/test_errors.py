from __future__ import annotations

import pytest

from hf_elmix.errors import UsageError, in_one_line


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
