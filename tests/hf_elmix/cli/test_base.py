from __future__ import annotations

import errno
import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from hf_elmix import __version__
from hf_elmix.cli.base import Command, OneLineParser, check_folder, run_program, whole_number
from hf_elmix.cli.help import add_flags_of
from hf_elmix.errors import UsageError, in_one_line

CHECKOUT = Path(__file__).parents[3]


def run_ending_with(end: BaseException | int) -> int:
    def run(args) -> int:
        if isinstance(end, int):
            return end
        raise end

    go = Command(run, lambda parser: None, extra="report", interrupted="Go on.")
    return run_program("me", "Ends.", {"go": go}, ["go"])


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("Expected a."), 2, "me: Expected a."),
        (ModuleNotFoundError("No module named 'x'", name="x"), 2, f"pip install -e '{CHECKOUT}[report]'"),
        (ModuleNotFoundError("No module named 'ray'", name="ray"), 2, f"pip install -e '{CHECKOUT}[ray]'"),
        (UsageError("Expected \x1b[2Ja\nb."), 2, r"me: Expected \x1b[2Ja\nb."),
        (OSError(28, "No space left on device"), 1, "me: [Errno 28] No space left on device"),
        (OSError(errno.ELOOP, "Too many links", "x"), 2, "Too many links: 'x'"),
        (KeyboardInterrupt(), 130, "me: stopped. Go on."),
    ],
)
def test_what_ends_a_command_is_one_line_and_a_code(error, code, line, capsys):
    assert run_ending_with(error) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert line in shown.err
    assert len(shown.err.strip().splitlines()) == 1


def test_a_command_that_ends_by_itself_has_its_own_code_and_says_nothing(capsys):
    assert run_ending_with(7) == 7
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_ends_early_is_no_error():
    program = (
        "import sys; from hf_elmix.cli.base import Command, run_program\n"
        "talk = Command(lambda args: print('x' * 10**6) or 0, lambda parser: None)\n"
        "sys.exit(run_program('me', 'Talks.', {'go': talk}, ['go']))"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def run_calling(function, *arguments) -> int:
    return run_program("me", "Calls.", {"go": Command(lambda args: function(*arguments), lambda parser: None)}, ["go"])


def test_an_error_of_ours_is_not_hidden():
    with pytest.raises(AttributeError):
        run_calling(in_one_line, "no exception")


def test_an_error_of_another_library_is_one_line_and_its_place_is_shown_if_asked_for(capsys, monkeypatch):
    assert run_calling(json.loads, "{") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("me: JSONDecodeError: Expecting property name")
    assert "HF_ELMIX_TRACEBACK=1" in line
    monkeypatch.setenv("HF_ELMIX_TRACEBACK", "1")
    with pytest.raises(json.JSONDecodeError):
        run_calling(json.loads, "{")


def test_what_a_terminal_cannot_show_is_escaped():
    code = "from hf_elmix.cli.base import *; run_program('me', '', {'go': Command(lambda args: print('α')"
    code += " or 0, lambda parser: None)}, ['go'])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert (done.stdout, done.stderr) == (b"\\u03b1\n", b"")


@pytest.mark.parametrize("word", ["out\udcff", "a\0b"])
def test_words_that_no_file_can_hold_are_refused(word, capsys):
    assert run_program("me", "", {"go": Command(lambda args: 0, lambda parser: None)}, ["go", word]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("s3://bucket/out", "the URL 's3://bucket/out'"),
        ("file/out", "Not a directory"),
        ("file", "'file' is a file"),
        ("a" * 300, "File name too long"),
        ("/proc/out", "/proc/out"),
        ("~nobody_at_all/out", "home"),
        ("a\0b", "null"),
        ("a\udcff", "can't encode"),
    ],
)
def test_a_folder_that_cannot_be_written(folder, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=re.escape(reason)):
        check_folder(folder)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_folder_that_can_be_written_is_not_made(tmp_path):
    check_folder(str(tmp_path / "a" / "b"))
    check_folder(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_parser_refuses_in_one_line():
    parser = OneLineParser(prog="me")
    parser.add_argument("--count", type=int)
    with pytest.raises(UsageError, match="^Expected --count to be a whole number, but got 'x'. See me --help.$"):
        parser.parse_args(["--count", "x"])


def add_count(parser) -> None:
    parser.add_argument("--count", type=whole_number(1, 9), default=2, help="the number")


def command(more=None) -> Command:
    def run(args) -> int:
        """Count.

        Says the count.
        """
        print(args.count, args.rest, args.typed)
        return 3

    return Command(run, add_count, more)


def test_a_program_runs_the_command_that_is_typed(capsys):
    own = Command(lambda args: print(args.rest) or 4, add_count, raw=True)
    commands = {"count": command(more=lambda parser: None), "own": own}
    assert run_program("me", "Counts.", commands, ["count", "--count", "3", "--more", "a b"]) == 3
    assert run_program("me", "Counts.", commands, ["own", "--count", "x"]) == 4
    assert capsys.readouterr().out == "3 ['--more', 'a b'] me count --count 3 --more 'a b'\n['--count', 'x']\n"


def test_help_is_the_docstring_with_defaults(capsys):
    with pytest.raises(SystemExit):
        run_program("me", "Counts.", {"count": command()}, ["count", "--help"])
    shown = capsys.readouterr().out
    assert "\nCount.\n\nSays the count.\n" in shown
    assert "the number (default: 2)" in shown


def many(parser) -> None:
    parser.add_argument("place", choices=("here", "there"))
    parser.add_argument("--required", required=True)
    parser.add_argument_group("data").add_argument("--rows", metavar="FILE")
    parser.add_argument_group("loss").add_argument("--loss", metavar="LOSS")


def more(parser) -> None:
    other = OneLineParser()
    other.add_argument("--rows")
    other.add_argument("--seed", "--the-seed", type=int, default=3)
    add_flags_of(other, parser)


MANY = {"go": Command(lambda args: 0, many, more), "with": {"group": Command(lambda args: 0, add_count)}}


def shown_by(words, capsys) -> str:
    with pytest.raises(SystemExit) as ended:
        run_program("me", "Goes.", MANY, words)
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_has_the_loss_first_and_the_flags_of_the_trainer_only_if_asked_for(capsys):
    shown = shown_by(["go", "-h"], capsys)
    assert shown.splitlines()[0] == "usage: me go --required REQUIRED {here,there} [FLAGS]"
    groups = [line for line in shown.splitlines() if re.fullmatch(r"\w[\w ]*:", line)]
    assert groups == ["positional arguments:", "loss:", "data:", "options:"]
    everything = shown_by(["go", "--help_all"], capsys)
    assert everything.count("--rows") == 1
    assert everything.index("options:") < everything.index("Trainer:") < everything.index("--seed SEED")
    assert "--the-seed" not in everything


def test_the_version(capsys):
    assert shown_by(["--version"], capsys) == f"me {__version__}\n"


def complete(script: str, *words: str) -> list[str]:
    line = f"COMP_WORDS=({' '.join(map(shlex.quote, words))}); COMP_CWORD={len(words) - 1}; COMPREPLY=()"
    call = f'_shtab_me me {shlex.quote(words[-1])} {shlex.quote(words[-2])}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", f"{script}\n{line}\n{call}"], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_shell_completes_commands_flags_losses_and_files(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").touch()
    script = shown_by(["--completion", "bash"], capsys)
    assert complete(script, "me", "") == ["go", "with"]
    assert complete(script, "me", "with", "group", "--co") == ["--count"]
    assert complete(script, "me", "go", "--see") == ["--seed"]
    assert complete(script, "me", "go", "--loss", "foc") == ["focal"]
    assert complete(script, "me", "go", "--rows", "ro") == ["rows.csv"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["cuont"], "me: Expected COMMAND to be one of count, but got 'cuont'. Did you mean 'count'?"),
        (["count", "--cuont", "3"], "me: Unknown argument '--cuont'. Did you mean '--count'? See me count --help."),
        (["--vers"], "me: Unknown argument '--vers'. Did you mean '--version'? See me --help."),
        (["count", "stray"], "me: Unknown argument 'stray'. See me count --help."),
        (["count", "--count", "3", "4"], "Unknown argument '4'. --count takes one value, COUNT. See me count --help."),
        (["count", "--count", "10"], "--count: expected a whole number, 1 to 9, but got '10'. See me count --help."),
        ([], "me: the following arguments are required: COMMAND. See me --help."),
    ],
)
def test_mistakes_in_typing(words, line, capsys):
    assert run_program("me", "Counts.", {"count": command()}, words) == 2
    assert capsys.readouterr().err.strip().endswith(line)


def test_a_warning_of_ours_is_one_line(monkeypatch):
    """Its place in the code says nothing to whoever typed the command."""
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    run_program("me", "Ends.", {"count": command()}, ["count"])
    assert (
        warnings.formatwarning("A row is odd.", UserWarning, run_program.__code__.co_filename, 3)
        == "me: A row is odd.\n"
    )
    assert "UserWarning: x" in warnings.formatwarning("x", UserWarning, "/elsewhere/torch/nn.py", 3)
