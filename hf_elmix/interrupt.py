"""Ctrl-C that always ends a program: in one line while it starts, and never lost in a library after that."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

__all__ = ["EXIT_INTERRUPTED", "end_at_ctrl_c", "interruptible"]

EXIT_INTERRUPTED = 130
AGAIN = 0.05  # seconds after which a Ctrl-C that Python has dropped is raised again

_pressed, _dropped = threading.Event(), threading.Event()  # during `interruptible`; by Python, in a finalizer


def end_at_ctrl_c(prog: str) -> None:
    """Let Ctrl-C end this process in one line, outside of `interruptible`.

    That is while modules are imported and after the command, when there is nothing to tidy up. Python itself would
    show a traceback, and some of what is imported would turn `KeyboardInterrupt` into another error. While Python
    tidies up at its very end, Ctrl-C is ignored: all work is done, and the exit code is to say how it went.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in the background
        signal.signal(signal.SIGINT, partial(_end, prog))
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


def _end(prog: str, *_: object) -> None:
    with suppress(Exception):  # a closed stream, or one that was being written to
        sys.stdout.flush()
    with suppress(OSError):
        os.write(2, f"\n{prog}: stopped.\n".encode())
    os._exit(EXIT_INTERRUPTED)


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Make Ctrl-C reliable, and yield a function that raises `KeyboardInterrupt` again if it has been pressed.

    Python drops an exception that is raised in a finalizer, and each training starts with a garbage collection. Some
    libraries turn it into an error of their own. Here the former is raised again, and the latter turned back.
    """
    before = signal.getsignal(signal.SIGINT)
    replaceable = before is signal.default_int_handler or (isinstance(before, partial) and before.func is _end)
    if threading.current_thread() is not threading.main_thread() or not replaceable:
        yield _check
        return
    show = sys.unraisablehook
    sys.unraisablehook = lambda dropped: _again() if dropped.exc_type is KeyboardInterrupt else show(dropped)
    signal.signal(signal.SIGINT, _press)
    try:
        yield _check
        _check()
    except Exception:
        _check()
        raise
    finally:
        signal.signal(signal.SIGINT, before)
        sys.unraisablehook = show
        _pressed.clear()
        _dropped.clear()


def _press(*_: object) -> None:
    _pressed.set()
    _dropped.clear()
    raise KeyboardInterrupt


def _check() -> None:
    if _pressed.is_set():
        _dropped.clear()
        raise KeyboardInterrupt


def _again() -> None:
    """Press Ctrl-C again in a moment, when the finalizer has ended, unless `_check` was faster."""
    _dropped.set()
    main = threading.main_thread().ident or 0  # a signal to it also ends a call in which it waits
    timer = threading.Timer(AGAIN, lambda: signal.pthread_kill(main, signal.SIGINT) if _dropped.is_set() else None)
    timer.daemon = True
    timer.start()
