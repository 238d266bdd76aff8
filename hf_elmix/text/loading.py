"""Load models and rows with other libraries: silently, and with any error in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from datasets.exceptions import DatasetsError
from datasets.utils import logging as datasets_logging
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from hf_elmix.errors import UsageError, in_one_line
from hf_elmix.hub.client import HTTPError

__all__ = ["loading"]

ERRORS = (OSError, ValueError, TypeError, NotImplementedError, DatasetsError, SafetensorError, HTTPError)


@contextmanager
def loading(what: str, expected: str) -> Iterator[None]:
    """Silence other libraries while they load something, and report their errors in one line.

    Args:
        what: What is loaded.
        expected: A sentence that says what is expected.

    Raises:
        UsageError: If it cannot be loaded.
    """
    levels = datasets_logging.get_verbosity(), transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    datasets_logging.set_verbosity(datasets_logging.CRITICAL)
    # A classifier is fresh on purpose, so no warning that it is not pre-trained.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    except ERRORS as error:
        raise UsageError(f"Cannot load {what}: {in_one_line(error)} {expected}") from error
    finally:
        datasets_logging.set_verbosity(levels[0])
        transformers_logging.set_verbosity(levels[1])
        if bars:
            transformers_logging.enable_progress_bar()
