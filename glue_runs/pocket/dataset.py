"""Generated rows on disk, laid out like the dataset ``nyu-mll/glue`` on the Hub."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
from huggingface_hub import DatasetCardData
from upath import UPath

from glue_runs.pocket import TRAIN_ROWS, VALIDATION_ROWS
from glue_runs.pocket.lexicon import WORDS
from glue_runs.pocket.rows import AMBIGUOUS, HARD, MISLABELLED, make_rows
from glue_runs.tasks import TASKS
from hf_elmix.study.files import write_bytes
from hf_elmix.text.tasks import TextTask

__all__ = ["write_dataset"]


def write_dataset(
    folder: str | PathLike[str], seed: int = 0, train_rows: int = TRAIN_ROWS, validation_rows: int = VALIDATION_ROWS
) -> Path:
    """Write all seven tasks as a dataset folder: ``datasets.load_dataset(str(folder), "mnli")`` loads one of them.

    Args:
        folder: The folder, which is created if it does not exist; files of the same names are replaced.
        seed: Seed of the rows.
        train_rows: Rows in each training split.
        validation_rows: Rows in each evaluation split.

    Returns:
        The folder.
    """
    folder, data_files = Path(folder), {}
    for task in TASKS.values():
        (folder / task.name).mkdir(parents=True, exist_ok=True)
        data_files[task.name] = [
            {"split": split, "path": f"{task.name}/{split}-*"} for split in ("train", *task.splits)
        ]
        for split, size in {"train": train_rows, **dict.fromkeys(task.splits, validation_rows)}.items():
            rows = make_rows(task.name, split, size, seed)
            columns = {column: [row.texts[place] for row in rows] for place, column in enumerate(task.columns)}
            columns |= {name: [getattr(row, name) for row in rows] for name in ("label", "idx", "kind", "difficulty")}
            path = folder / task.name / f"{split}-00000-of-00001.parquet"
            pd.DataFrame(columns).to_parquet(path, index=False)
    header = DatasetCardData(
        license="apache-2.0",
        language=["en"],
        task_categories=["text-classification"],
        dataset_info=[_info(task) for task in TASKS.values()],
        configs=[{"config_name": name, "data_files": files} for name, files in data_files.items()],
    )
    shares = {"ambiguous": f"{AMBIGUOUS:.0%}", "mislabelled": f"{MISLABELLED:.0%}", "hard": f"{HARD:.0%}"}
    sizes = {"train_rows": train_rows, "validation_rows": validation_rows, "words": round(len(WORDS), -1)}
    text = f"---\n{header.to_yaml()}\n---\n{_CARD.format(seed=seed, **sizes, **shares)}"
    write_bytes(UPath(folder / "README.md"), text.encode())  # whole: the demo takes it for the sign that all is there
    return folder


def _info(task: TextTask) -> dict[str, Any]:
    names = {str(place): name for place, name in enumerate(task.labels)}
    dtypes: dict[str, Any] = {**dict.fromkeys(task.columns, "string"), "label": {"class_label": {"names": names}}}
    dtypes |= {"idx": "int32", "kind": "string", "difficulty": "string"}
    features = [{"name": column, "dtype": dtype} for column, dtype in dtypes.items()]
    return {"config_name": task.name, "features": features}


_CARD = """
# Seven small tasks in the format of GLUE

Every row here is generated: `glue_runs.pocket` of the package hf-elmix writes them from a grammar and a lexicon of
about {words} words (seed {seed}). No row of GLUE is copied; only the names of the configurations, columns, labels and
splits are those of `nyu-mll/glue`. Each task has {train_rows} training rows and {validation_rows} rows per evaluation
split.

| column | contents |
|---|---|
| the text columns, `label`, `idx` | as in GLUE |
| `kind` | `clean`, `ambiguous` or `mislabelled` |
| `difficulty` | `easy` or `hard`; ambiguous rows are hard |

In training {ambiguous} of the rows are ambiguous and {mislabelled} are mislabelled; evaluation rows are all clean. An
ambiguous row supports two labels and has one of them by chance; a mislabelled row has an incorrect one. In every
split, {hard} of the rows that are not ambiguous are hard. Labels are balanced before this noise is added. Evaluation
rows are drawn from texts that training rows never use. In `mnli`, the training and the matched rows are about animals
and fruit, the mismatched ones about vehicles and tools.

**What they can show:** that a training pipeline works from end to end, and how losses treat rows of a known kind.
**What they cannot show:** how well a model understands English, or what any loss is worth on GLUE. A score on these
rows is not a GLUE score.
"""
