"""Ctrl-C ends a program in one line, whenever it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from glue_runs.pocket.dataset import write_dataset
from glue_runs.pocket.encoder import encoder_path
from hf_elmix.interrupt import end_at_ctrl_c, interruptible


@pytest.fixture
def hearing() -> Iterator[None]:
    """Ctrl-C as a program meets it that is started in a terminal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler), sys.unraisablehook
    sys.unraisablehook = sys.__unraisablehook__  # pytest has one of its own
    yield
    signal.signal(signal.SIGINT, before[0])
    sys.unraisablehook = before[1]


class Finalized:
    """Presses Ctrl-C while it is collected."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_that_python_drops_comes_again(hearing, capfd):
    def wait() -> None:
        with interruptible():
            Finalized()
            time.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        wait()
    assert capfd.readouterr().err == ""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("error", [None, ImportError("no module"), ValueError("no shape")])
def test_an_error_into_which_a_library_turns_ctrl_c_is_ctrl_c(hearing, error):
    @interruptible()
    def load() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            if error is not None:
                raise error from None

    with pytest.raises(KeyboardInterrupt):
        load()


def test_other_errors_and_the_next_time_are_as_ever(hearing):
    with pytest.raises(ValueError, match="other"), interruptible():
        raise ValueError("other")
    with interruptible(), interruptible() as check:
        check()


def test_ctrl_c_that_another_program_handles_or_ignores_stays_so(hearing):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_at_ctrl_c("me")
    with interruptible():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


ENDING = """
import os, signal, sys
from hf_elmix.interrupt import end_at_ctrl_c
class Last:
    def __del__(self, kill=os.kill, me=os.getpid(), signum=signal.SIGINT):
        kill(me, signum)
sys.kept = Last()
end_at_ctrl_c("me")
sys.exit(3)
"""


def test_ctrl_c_while_python_tidies_up_changes_nothing():
    done = subprocess.run(
        [sys.executable, "-c", ENDING],
        **{"capture_output": True, "text": True},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (done.returncode, done.stderr) == (3, "")


IMPORTING = """
import builtins, os, signal, sys
from {program}.__main__ import main
real = builtins.__import__
def imported(name, *rest, **more):
    if name == {name!r}:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(10**6): pass
        except BaseException as error:
            raise ImportError(name) from error
    return real(name, *rest, **more)
builtins.__import__ = imported
sys.argv = {words!r}
print("text", end="")
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("program", "words", "name"),
    [
        ("hf_elmix", ["elmix", "report", "scores.csv"], "hf_elmix.cli.base"),
        ("hf_elmix", ["elmix", "report", "scores.csv"], "pandas"),
        ("glue_runs", ["glue-runs", "status", "runs"], "hf_elmix.cli"),
        ("glue_runs", ["glue-runs", "status", "runs"], "hf_elmix.study.store"),
    ],
)
def test_ctrl_c_during_an_import_ends_the_program_in_one_line(tmp_path, program, words, name):
    (tmp_path / "scores.csv").write_text("task,method,score\na,x,1\na,y,2\n")
    (tmp_path / "runs").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING.format(program=program, words=words, name=name)],
        **{"cwd": tmp_path, "capture_output": True, "text": True},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (done.returncode, done.stdout) == (130, "text"), done.stderr
    assert done.stderr.strip() == f"{words[0]}: stopped."


STARTED = """
import sys
from {module} import main
print("started", flush=True)
sys.argv[0] = {prog!r}
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", ["report", "study", "finetune", "workers"])
def test_ctrl_c_at_any_time_ends_a_command_in_one_line(tmp_path, command):
    words = ["--model_name_or_path", str(encoder_path()), "--use_cpu"]
    if command != "report":
        words += ["--dataset_name", str(write_dataset(tmp_path / "rows", train_rows=32, validation_rows=16))]
    (tmp_path / "scores.csv").write_text("task,method,score\n" + "".join(f"{k},{k % 7},{k}\n" for k in range(70)))
    program, words = {
        "report": ("elmix", ["report", "scores.csv"]),
        "study": ("glue-runs", ["study", *words, "--tasks", "cola", "--output_dir", "runs"]),
        "workers": ("glue-runs", ["study", *words, "--tasks", "cola", "--output_dir", "runs", "--workers", "2"]),
        "finetune": ("glue-runs", ["finetune", *words, "--task_name", "cola", "--do_train", "--output_dir", "model"]),
    }[command]
    code = STARTED.format(
        module={"elmix": "hf_elmix.__main__", "glue-runs": "glue_runs.__main__"}[program], prog=program
    )
    for delay in (0.01, 0.3, 2.0, 5.0):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *words],
            **{"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True},
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(delay)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all processes of the command
        _, said = process.communicate(timeout=600)
        stopped = [line for line in said.splitlines() if line.startswith(f"{program}: stopped.")]
        assert (process.returncode, len(stopped)) in ({(130, 1)} if delay < 1 else {(130, 1), (0, 0)}), said
        assert "Traceback" not in said
