from __future__ import annotations

import io
import re

import pandas as pd
import pytest
import yaml
from markdown_it import MarkdownIt

from hf_elmix.analysis.results import StudyResults
from hf_elmix.hub.dataset_card import DATASET_MARK, dataset_files

RUNS = pd.DataFrame(
    {
        "task": ["a", "a", "a", "a"],
        "method": ["ce", "0", "ce", "0"],
        "seed": [0, 0, 1, 1],
        "status": ["done", "done", "done", "failed"],
        "score": [0.5, 0.6, 0.7, None],
        "settings": ['{"lr": 1.0, "name": "x|<b>"}'] * 4,
    }
)
CURVES = pd.DataFrame(
    {"task": ["a"], "method": ["ce"], "seed": [0], "epoch": [1.0], "quantity": ["score"], "value": [0.5]}
)
COMMANDS = ["echo '", "```", "# title'", "glue-runs study"]


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return dataset_files(StudyResults(RUNS, CURVES), "org/my-runs", COMMANDS)


def metadata(card: bytes) -> dict:
    return yaml.safe_load(card.decode().split("---\n")[1])


def test_dataset_holds_every_run_and_number(files):
    pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(files["runs.parquet"])), RUNS)
    pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(files["curves.parquet"])), CURVES)


def test_card_lists_files(files):
    found = metadata(files["README.md"])
    assert {config["config_name"]: config["data_files"] for config in found["configs"]} == {
        "runs": "runs.parquet",
        "curves": "curves.parquet",
    }
    assert found["hf_elmix"] == DATASET_MARK
    assert set(re.findall(r"!\[[^]]*\]\((.*?)\)", files["README.md"].decode())) == {"profile.png"} < set(files)


def test_card_states_verdict(files):
    text = files["README.md"].decode()
    assert "The 4 runs of a study" in text
    assert "1 task, 2 methods, 2 seeds" in text
    assert "3 of 4 runs have a score (1 failed)" in text
    assert re.search(r"\| a +\| 60.00 ± 14.14 \(2\) \| 60.00 \(1/2\) +\|", text)
    assert "battash2021mixing" in text


@pytest.mark.parametrize(("limit", "said"), [("400", True), ("null", False)])
def test_card_says_that_scores_are_on_some_rows_only(limit, said):
    runs = RUNS.assign(settings=f'{{"max_eval_samples": {limit}}}')
    card = dataset_files(StudyResults(runs, CURVES), "org/my-runs")["README.md"].decode()
    assert ("Scored on at most the first 400 rows of each evaluation split." in card) == said


def test_code_and_settings_are_escaped(files):
    html = MarkdownIt("commonmark").enable("table").render(files["README.md"].decode().split("---\n", 2)[2])
    assert "<code class=\"language-bash\">echo '\n```\n# title'\nglue-runs study\n</code>" in html
    assert "x|&lt;b&gt;" in html
    assert "<b>" not in html


def test_study_from_table_of_scores_has_no_curves():
    files = dataset_files(StudyResults(RUNS.drop(columns="settings")), "org/my-runs")
    assert set(files) == {"README.md", "runs.parquet", "profile.png"}
    assert [config["config_name"] for config in metadata(files["README.md"])["configs"]] == ["runs"]
    assert "curves" not in files["README.md"].decode()


def test_files_are_reproducible(files):
    assert dataset_files(StudyResults(RUNS, CURVES), "org/my-runs", COMMANDS) == files
