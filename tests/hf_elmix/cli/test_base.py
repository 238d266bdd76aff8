from __future__ import annotations

import pytest

from hf_elmix.cli.base import OneLineParser, exit_code
from hf_elmix.errors import UsageError


def ends(error: BaseException):
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("Expected a."), 2, "me: Expected a."),
        (ModuleNotFoundError("No module named 'x'", name="x"), 2, "pip install 'hf-elmix[report]'"),
        (ModuleNotFoundError("No module named 'ray'", name="ray"), 2, "pip install 'hf-elmix[ray]'"),
        (OSError(28, "No space left on device"), 1, "me: [Errno 28] No space left on device"),
        (KeyboardInterrupt(), 130, "me: stopped. Go on."),
    ],
)
def test_what_ends_a_command_is_one_line_and_a_code(error, code, line, capsys):
    assert exit_code("me", ends(error), extra="report", interrupted="Go on.") == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert line in shown.err
    assert len(shown.err.strip().splitlines()) == 1


def test_a_command_that_ends_by_itself_has_its_own_code_and_says_nothing(capsys):
    assert exit_code("me", lambda: 7, extra="report") == 7
    assert capsys.readouterr() == ("", "")


def test_an_error_of_ours_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        exit_code("me", ends(ZeroDivisionError()), extra="report")


def test_a_parser_refuses_in_one_line():
    parser = OneLineParser(prog="me")
    parser.add_argument("--count", type=int)
    with pytest.raises(UsageError, match="invalid int value: 'x'. See me --help.$"):
        parser.parse_args(["--count", "x"])
