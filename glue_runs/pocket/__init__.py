"""The input of the demo: seven small generated tasks in the format of GLUE, and a small encoder to fine-tune.

The functions are in ``glue_runs.pocket.dataset`` (``write_dataset``), ``glue_runs.pocket.encoder`` (``encoder_path``)
and ``glue_runs.pocket.rows`` (``make_rows``). This module holds only constants, so that importing it takes no time.
"""

__all__ = ["BATCH_SIZE", "EPOCHS", "LEARNING_RATE", "MAX_LENGTH", "TRAIN_ROWS", "VALIDATION_ROWS", "WARMUP_STEPS"]

TRAIN_ROWS = 320  # per split: 10 steps an epoch and 60 a run, so that 112 runs take three minutes on two idle cores
VALIDATION_ROWS = 256  # per evaluation split: a standard error of about 0.025 at an accuracy of 0.8
BATCH_SIZE = 32  # as in the GLUE study
EPOCHS = 6  # as in the paper
LEARNING_RATE = 1e-3  # larger than the paper's 2e-5, because the model is small and has only 60 steps
WARMUP_STEPS = 10  # one epoch; without it some seeds of sst2 stay at chance
MAX_LENGTH = 64  # tokens, as in the paper; the longest row has about half as many
