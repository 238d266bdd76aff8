"""Load models and rows with other libraries: silently, and with any error in one line."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets.utils import logging as datasets_logging
from huggingface_hub.constants import HF_HOME
from transformers.utils import logging as transformers_logging

from hf_elmix.errors import UsageError, in_one_line

__all__ = ["loading"]


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
    except UsageError:
        raise
    except Exception as error:  # other libraries raise errors of any type
        if _is_cache_unwritable(error):
            expected = f"Set the environment variable HF_HOME to a folder that can be written to; it is {HF_HOME!r}."
        raise UsageError(f"Cannot load {what}: {in_one_line(error)} {expected}") from error
    finally:
        datasets_logging.set_verbosity(levels[0])
        transformers_logging.set_verbosity(levels[1])
        if bars:
            transformers_logging.enable_progress_bar()


def _is_cache_unwritable(error: BaseException) -> bool:
    """Whether an error says that nothing can be written below HF_HOME, or that HF_HOME cannot be created."""
    place, kind = str(getattr(error, "filename", None) or ""), getattr(error, "errno", None)
    above = kind in (errno.ENOENT, errno.ENOTDIR) and Path(HF_HOME).is_relative_to(place)
    return above or (kind in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR) and place.startswith(HF_HOME))
