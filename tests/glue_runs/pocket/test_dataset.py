from __future__ import annotations

import pytest
from datasets import ClassLabel, load_dataset

from glue_runs.pocket.dataset import write_dataset
from glue_runs.pocket.rows import AMBIGUOUS, MISLABELLED, make_rows
from glue_runs.tasks import TASKS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("rows") / "glue", seed=5, train_rows=30, validation_rows=12)


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_the_folder_loads_like_the_hubs_dataset(folder, tmp_path, task) -> None:
    dataset = load_dataset(str(folder), task.name, cache_dir=str(tmp_path))
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 30, **dict.fromkeys(task.splits, 12)}
    for rows in dataset.values():
        assert rows.column_names == [*task.columns, "label", "idx", "kind", "difficulty"]
        assert rows.features["label"] == ClassLabel(names=list(task.labels))
        assert rows.features["idx"].dtype == "int32"
    first = make_rows(task.name, "train", 30, seed=5)[0]
    read = dataset["train"][0]
    assert tuple(read[column] for column in task.columns) == first.texts
    assert (read["label"], read["idx"], read["kind"]) == (first.label, first.idx, first.kind)


def test_writing_twice_gives_the_same_bytes(folder, tmp_path) -> None:
    again = write_dataset(tmp_path, seed=5, train_rows=30, validation_rows=12)
    names = sorted(path.relative_to(folder) for path in folder.rglob("*.*"))
    assert len(names) == 1 + 7 * 2 + 1
    assert all((folder / name).read_bytes() == (again / name).read_bytes() for name in names)


def test_the_card_states_what_the_rows_are(folder) -> None:
    card = (folder / "README.md").read_text()
    assert "\nlicense: apache-2.0\n" in card.split("---")[1]
    assert f"{AMBIGUOUS:.0%} of the rows are ambiguous and {MISLABELLED:.0%} are mislabelled" in card
    assert "(seed 5)" in card
