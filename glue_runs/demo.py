"""The demo: the whole study, end to end, on generated rows and a small encoder, with no network and no account."""

from __future__ import annotations

from pathlib import Path

from glue_runs import pocket
from glue_runs.pocket.dataset import write_dataset
from glue_runs.pocket.encoder import encoder_path
from glue_runs.study import glue_study
from hf_elmix.study.spec import Study

__all__ = ["ABOUT", "APART", "REAL", "demo_study"]

REAL = "glue-runs study --output_dir runs"

ABOUT = f"""\
A study of 7 tasks x 4 seeds x 4 regimes = 112 fine-tunings on GENERATED rows: small English sentences made by a seeded
grammar (glue_runs/pocket), a known share of them ambiguous or mislabelled, and a small BERT pre-trained on such text.
It shows that everything works and what the result looks like, on your machine. It cannot show that a regime is better
on real text: the rows follow rules that real text does not. The training rows that were made ambiguous or mislabelled
are reported apart: how many of them does each regime end up memorising? The real tasks, with the paper's protocol:

    {REAL}
"""


APART = {
    "mislabelled": "mislabelled training rows memorised, with the wrong label that they carry",
    "ambiguous": "ambiguous training rows memorised, with the label that they carry by chance",
}


def demo_study(folder: Path) -> Study:
    """The paper's grid over generated rows, which are written below `folder` in the layout of the Hub's dataset.

    Args:
        folder: Where ``rows/`` goes.
    """
    rows = folder / "rows"
    if not (rows / "README.md").exists():  # written last, so it stands for all of them
        write_dataset(rows)
    arguments = {
        "learning_rate": pocket.LEARNING_RATE,
        "warmup_steps": pocket.WARMUP_STEPS,
        "num_train_epochs": pocket.EPOCHS,
        "per_device_train_batch_size": pocket.BATCH_SIZE,
        "per_device_eval_batch_size": 256,
        "use_cpu": True,  # so small a model is no work for a GPU
    }
    return glue_study(
        model=str(encoder_path()), dataset=str(rows), max_length=pocket.MAX_LENGTH, arguments=arguments, kinds=APART
    )
