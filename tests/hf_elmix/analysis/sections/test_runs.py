from __future__ import annotations

import pandas as pd

from hf_elmix.analysis.frames import runs_table
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sections.base import Section
from hf_elmix.analysis.sections.runs import runs_section, shared_settings
from hf_elmix.study.spec import RunRecord


def section_of(records: list[RunRecord]) -> Section:
    return runs_section(StudyResults(runs_table(records)))


def test_runs_have_their_settings_and_errors(record):
    done, failed = [record("a", "ce", seed, 0.5) for seed in (0, 1)], record("a", "0", 0, status="failed")
    failed.settings["nested"] = {"name": 0.5}
    failed = RunRecord(**{**vars(failed), "error": "Error: memory\nfull"})
    section = section_of([*done, failed])
    runs, settings, shared = section.tables
    header = ["task", "method", "seed", "status", "score", "seconds", "steps trained", "steps inherited", "error"]
    assert runs.header == [*header, "settings"]
    assert [row[-1] for row in runs.texts()] == ["1", "2", "1"]
    assert runs.texts()[1][3:5] == ["failed", ""]
    assert runs.texts()[1][8] == "Error: memory\nfull"
    assert settings.header == ["number", "nested.name"]
    assert settings.texts() == [["1", ""], ["2", "0.5"]]
    assert [row[-1].link for row in runs.rows] == [settings.rows[k][0].anchor for k in (0, 1, 0)]
    assert shared.texts() == [["select", "accuracy"]]
    assert all(table.page_only for table in section.tables)


def test_settings_that_no_run_changes_have_no_table_of_differences(record):
    section = section_of([record("a", "ce", seed, 0.5) for seed in (0, 1)])
    assert [table.name for table in section.tables] == ["runs", "shared-settings"]
    assert {row[-1].link for row in section.tables[0].rows} == {""}


def test_a_run_without_a_record_has_no_settings(record):
    results = StudyResults(runs_table([record("a", "ce", 0, 0.5)], [record("a", "0", 0).key]))
    assert [row[-1] for row in runs_section(results).tables[0].texts()] == ["1", ""]


def test_scores_alone_have_no_settings_and_no_cost():
    runs_df = pd.DataFrame({"task": "a", "method": ["x", "y"], "seed": 0, "status": "done", "score": [1.0, 2.0]})
    section = runs_section(StudyResults(runs_df))
    (runs,) = section.tables
    assert runs.header == ["task", "method", "seed", "status", "score"]
    assert (section.about, list(section.data)) == ("", ["runs"])
    assert shared_settings(runs_df) == {}


def test_a_column_of_that_name_need_not_be_json():
    runs_df = pd.DataFrame(
        {"task": "a", "method": ["x", "y"], "seed": 0, "status": "done", "score": 1.0, "settings": ["fast", "slow"]}
    )
    assert runs_section(StudyResults(runs_df)).tables[1].texts() == [["1", "fast"], ["2", "slow"]]


def test_the_cost_of_all_runs(record):
    records = [record("a", "ce", seed, 0.5) for seed in (0, 1)]
    assert section_of(records).about == "All runs together: 6 seconds of work, 24 steps trained."
    records[0].cost["steps_inherited"] = 1200
    assert section_of(records).about.endswith(", 1,200 steps inherited from shared prefixes.")


def test_of_many_runs_those_without_a_score_come_first(record, monkeypatch):
    monkeypatch.setattr("hf_elmix.analysis.sections.runs.MANY", 3)
    records = [record("a", "ce", seed, 0.5, status="failed" if seed == 8 else "done") for seed in range(10)]
    section = section_of(records)
    assert [row[2] for row in section.tables[0].texts()] == ["8", "0", "1"]
    assert "Shown: 3 of 10 runs, those without a score first; data/runs.csv has all." in section.tables[0].caption
    assert section.data["runs"]["seed"].tolist() == list(range(10))
