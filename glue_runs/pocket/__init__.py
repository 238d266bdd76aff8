"""The demo's input: seven small generated tasks in the shape of GLUE, and a small encoder to fine-tune on them.

The functions live in ``glue_runs.pocket.dataset`` (``write_dataset``), ``glue_runs.pocket.encoder`` (``encoder_path``)
and ``glue_runs.pocket.rows`` (``make_rows``). Only constants stand here, so that importing them takes no time.
"""

from __future__ import annotations

__all__ = ["BATCH_SIZE", "EPOCHS", "LEARNING_RATE", "MAX_LENGTH", "TRAIN_ROWS", "VALIDATION_ROWS", "WARMUP_STEPS"]

TRAIN_ROWS = 320
"""Rows per training split: ten steps an epoch, sixty a run, for 112 runs in three minutes on two idle cores."""
VALIDATION_ROWS = 256
"""Rows per evaluation split: a standard error of about 0.025 at an accuracy of 0.8."""
BATCH_SIZE = 32
"""As in the study of GLUE."""
EPOCHS = 6
"""As in the paper."""
LEARNING_RATE = 1e-3
"""Larger than the paper's 2e-5, as suits a model this small that has sixty steps in all."""
WARMUP_STEPS = 10
"""One epoch: without it some seeds of ``sst2`` stay at chance."""
MAX_LENGTH = 64
"""In tokens, as in the paper. The longest row has about half of that; batches are padded to their own longest row."""
