"""The demo: the whole study on generated rows and a small encoder, without a network or an account."""

from __future__ import annotations

from pathlib import Path

from glue_runs import pocket
from glue_runs.pocket.dataset import write_dataset
from glue_runs.pocket.encoder import encoder_path
from glue_runs.study import glue_study
from hf_elmix.study.spec import Study

__all__ = ["ABOUT", "SCORED_KINDS", "demo_study"]

ABOUT = """\
A study of 7 tasks x 4 seeds x 4 losses = 112 runs on GENERATED rows: short English sentences from a seeded grammar
(glue_runs/pocket), a known share of them ambiguous or mislabelled, and a small BERT pre-trained on such text. It shows
that everything works on your machine, and what a report looks like. It cannot show that a loss is better on real text,
which does not follow the rules of a grammar. Training rows that are ambiguous or mislabelled are also reported
separately: how many of them does the model memorise with each loss? The real tasks, with the paper's protocol:

    glue-runs study --output_dir runs
"""

SCORED_KINDS = {
    "mislabelled": "mislabelled training rows memorised with their incorrect label",
    "ambiguous": "ambiguous training rows memorised with the label that they have by chance",
}


def demo_study(folder: Path) -> Study:
    """The paper's grid on generated rows, which are written to disk if they do not exist.

    Args:
        folder: The folder in which ``rows/`` is created.
    """
    rows = folder / "rows"
    if not (rows / "README.md").exists():  # written last, so the other files exist
        write_dataset(rows)
    arguments = {
        "learning_rate": pocket.LEARNING_RATE,
        "warmup_steps": pocket.WARMUP_STEPS,
        "num_train_epochs": pocket.EPOCHS,
        "per_device_train_batch_size": pocket.BATCH_SIZE,
        "per_device_eval_batch_size": 256,
        "use_cpu": True,  # the model is too small for a GPU to be faster
    }
    model, length = str(encoder_path()), pocket.MAX_LENGTH
    return glue_study(model=model, dataset=str(rows), max_length=length, arguments=arguments, kinds=SCORED_KINDS)
