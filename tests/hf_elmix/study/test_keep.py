from __future__ import annotations

import pytest

from hf_elmix.errors import UsageError
from hf_elmix.study.grid import run_grid
from hf_elmix.study.keep import keep_best
from hf_elmix.study.runner import run_branch
from hf_elmix.study.spec import KEEP, RunKey, RunRecord
from hf_elmix.study.store import Store


def kept(store: Store) -> list[int]:
    """Seeds whose model is there."""
    return sorted(int(path.parent.name.removeprefix("seed")) for path in store.folder.glob("*/*/seed*/model"))


@pytest.fixture
def records(store, record_of):
    """Records with a model beside each: one for each score, or status, the k-th of seed k."""

    def make(*scores: float | str | None) -> list[RunRecord]:
        made = []
        for seed, score in enumerate(scores):
            key = RunKey("a", "ce", seed)
            status = score if isinstance(score, str) else "done"
            value = score if not isinstance(score, str) else 0.99
            made.append(record_of(key, value, status=status))
            (store.folder_of(key) / "model").mkdir(parents=True)
            (store.folder_of(key) / "model" / "config.json").write_text("{}")
            store.write(made[-1])
        return made

    return make


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ((0.5, 0.7, 0.6), 1),
        ((0.7, 0.7, 0.6), 0),
        ((0.5, "diverged", 0.6), 2),
        (("diverged", 0.1), 1),
        ((None, -0.5), 1),
        ((0.4,), 0),
    ],
)
def test_the_model_of_the_best_run_that_is_done_stays(store, records, scores, best):
    made = records(*scores)
    keep_best(store, made)
    assert kept(store) == [best]
    assert [store.read(record.key) for record in made] == made
    keep_best(store, list(reversed(made)))
    assert kept(store) == [best]


def test_of_equal_runs_the_one_of_the_first_seed_stays_however_they_are_given(store, records):
    keep_best(store, list(reversed(records(0.5, 0.7, 0.7))))
    assert kept(store) == [1]


def test_runs_without_a_model_cannot_be_the_best(store, records, record_of):
    made = records(0.5, 0.6)
    keep_best(store, [*made, record_of(RunKey("a", "ce", 7), 0.99)])
    assert kept(store) == [1]


def test_other_tasks_and_methods_are_let_alone(store, records, record_of):
    made = records(0.5, 0.6)
    (store.folder_of(RunKey("a", "0", 5)) / "model").mkdir(parents=True)
    (store.folder_of(RunKey("b", "ce", 6)) / "model").mkdir(parents=True)
    keep_best(store, made)
    assert kept(store) == [1, 5, 6]


@pytest.mark.parametrize("keep", KEEP)
def test_a_study_keeps_the_models_it_was_told_to(toy, store, keep):
    study = toy.study(None, "0", "0@0 0.5@0.5", seeds=(3, 4, 5), learning_rate=0.1)
    assert run_grid(study, store, run_branch, keep=keep) == {"done": 6}
    records = {record.key: record for record in store.records()}
    there = {key for key in study.runs() if (store.folder_of(key) / "model" / "model.safetensors").exists()}
    if keep == "best":
        for method in ("0", "0@0 0.5@0.5"):
            scores = {s: records[RunKey("toy", method, s)].scores["accuracy"]["last"] for s in (3, 4, 5)}
            assert {key.seed for key in there if key.method == method} == {max(scores, key=scores.get)}
    else:
        assert there == (set(study.runs()) if keep == "models" else set())
    files = {path.name for path in store.folder.rglob("*") if path.is_file() and ".locks" not in path.parts}
    assert files == {"record.json", "study.json", *(["model.safetensors", "config.json"] if there else [])}


def test_the_best_of_a_study_that_was_stopped_is_found_over_all_seeds(toy, store):
    study = toy.study(None, "0", seeds=(3, 4, 5), learning_rate=0.1)
    for seeds in ((3,), (3, 4), (3, 4, 5)):
        run_grid(toy.study(None, "0", seeds=seeds, learning_rate=0.1), store, run_branch, keep="best")
    scores = {key.seed: store.read(key).scores["accuracy"]["last"] for key in study.runs()}
    assert kept(store) == [max(scores, key=scores.get)]


def test_an_unknown_word_is_refused_before_anything_is_done(toy, store):
    with pytest.raises(UsageError, match="one of models, best, none, but got 'all'"):
        run_grid(toy.study(), store, run_branch, keep="all")
    assert not store.folder.exists()
