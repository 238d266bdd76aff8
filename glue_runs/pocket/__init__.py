"""The input of the demo: seven small generated tasks with the form of GLUE's, and a small encoder to fine-tune.

The functions are in ``glue_runs.pocket.dataset`` (``write_dataset``), ``glue_runs.pocket.encoder`` (``encoder_path``)
and ``glue_runs.pocket.rows`` (``make_rows``). Here are only constants, so that importing them takes no time.
"""

from __future__ import annotations

__all__ = ["BATCH_SIZE", "EPOCHS", "LEARNING_RATE", "MAX_LENGTH", "TRAIN_ROWS", "VALIDATION_ROWS", "WARMUP_STEPS"]

TRAIN_ROWS = 320
"""Rows in a training split: 10 steps an epoch and 60 a run, so that 112 runs take three minutes on two idle cores."""
VALIDATION_ROWS = 256
"""Rows in an evaluation split: a standard error of about 0.025 at an accuracy of 0.8."""
BATCH_SIZE = 32
"""As in the GLUE study."""
EPOCHS = 6
"""As in the paper."""
LEARNING_RATE = 1e-3
"""Larger than the paper's 2e-5, because the model is small and has only 60 steps."""
WARMUP_STEPS = 10
"""One epoch; without it some seeds of ``sst2`` stay at chance."""
MAX_LENGTH = 64
"""Tokens, as in the paper; the longest row has about half as many."""
