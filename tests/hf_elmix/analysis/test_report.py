from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from pandas.testing import assert_frame_equal

from hf_elmix.analysis.plots import STYLES
from hf_elmix.analysis.profile import performance_profile
from hf_elmix.analysis.report import write_report
from hf_elmix.analysis.tables import runs_table, scores_table, summary_table, summary_text
from hf_elmix.errors import UsageError
from hf_elmix.study.store import Store

FILES = ["profile.csv", "profile.png", "profile.svg", "runs.csv", "summary.csv"]

# The file has every digit, but some versions of pandas read the last one wrongly.
UP_TO_PARSING: dict[str, float] = {"rtol": 1e-15, "atol": 0}


def read_csv(path: Path) -> pd.DataFrame:
    # A method named '0' is a text.
    return pd.read_csv(path, dtype={"problem": str, "method": str})


def has_colour(image: np.ndarray, colour: str) -> bool:
    return bool((np.abs(image[..., :3] - to_rgb(colour)).max(axis=-1) < 0.02).any())


def test_the_report_is_these_files_in_a_folder_it_makes(small_study, tmp_path):
    folder = tmp_path / "new" / "report"
    write_report(iter(small_study), folder)
    assert sorted(path.name for path in folder.iterdir()) == FILES


def test_the_summary_comes_back_as_text(small_study, tmp_path):
    text = write_report(small_study, tmp_path)
    assert text == summary_text(summary_table(runs_table(small_study)))
    assert "| cola | 62.50 ± 17.68 (2) |" in text


def test_the_tables_read_back_as_they_are(small_study, record, tmp_path):
    records = [*small_study, record("rte", "0", 0, 0.1 + 0.2), record("rte", "0,0.5", 0, 1 / 3)]
    write_report(records, str(tmp_path))
    runs_df = runs_table(records)
    assert_frame_equal(read_csv(tmp_path / "runs.csv"), runs_df, **UP_TO_PARSING)
    assert_frame_equal(read_csv(tmp_path / "summary.csv"), summary_table(runs_df), **UP_TO_PARSING)
    profile = performance_profile(scores_table(runs_df))
    written = read_csv(tmp_path / "profile.csv").set_index("tau")
    assert_frame_equal(written, profile, **UP_TO_PARSING)


def test_the_profile_is_the_figures_by_hand(record, tmp_path):
    # ce is best once and at 0.5 of the best once; 0 the other way round at 0.8; one run of 0 failed.
    records = [
        record("a", "ce", 0, 0.5),
        record("a", "0", 0, 0.4),
        record("b", "ce", 0, 0.25),
        record("b", "0", 0, 0.5),
    ]
    write_report([*records, record("c", "ce", 0, 0.5), record("c", "0", 0, status="failed")], tmp_path)
    expected = pd.DataFrame({"tau": [0.5, 0.8, 1.0], "ce": [1, 2 / 3, 2 / 3], "0": [2 / 3, 2 / 3, 1 / 3]})
    assert_frame_equal(read_csv(tmp_path / "profile.csv"), expected, **UP_TO_PARSING)


def test_the_picture_shows_a_curve_for_each_method(small_study, tmp_path):
    write_report(small_study, tmp_path)
    image = matplotlib.image.imread(tmp_path / "profile.png")
    assert min(image.shape[:2]) > 500
    assert [has_colour(image, colour) for colour, *_ in STYLES] == [True, True, True, False, False, False]


def test_the_picture_of_methods_that_are_all_best_shows_a_flat_line(record, tmp_path):
    records = [record("a", method, 0, 0.5) for method in ("ce", "0-0.5")]
    write_report(records, tmp_path)
    image = matplotlib.image.imread(tmp_path / "profile.png")
    # In the upper half, so that the key in the legend at the lower left does not count.
    assert has_colour(image[: image.shape[0] // 2], STYLES[1][0])


def test_the_drawing_is_xml_with_its_words_as_text(small_study, tmp_path):
    write_report(small_study, tmp_path)
    root = ElementTree.parse(tmp_path / "profile.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = {"".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")}
    titles = {"CE (3/4 runs)", "F = 0-0.5", "F = 0.3 (2/4 runs)", "Performance profile over 4 experiments"}
    assert titles <= words


def test_the_same_records_make_the_same_files(small_study, tmp_path):
    for name, records in {"one": small_study, "two": small_study[::-1]}.items():
        write_report(records, tmp_path / name)
    for file in FILES:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_no_figure_and_no_setting_stays_behind(small_study, tmp_path):
    figures, settings = plt.get_fignums(), dict(plt.rcParams)
    write_report(small_study, tmp_path)
    assert plt.get_fignums() == figures
    assert dict(plt.rcParams) == settings


def test_records_of_a_store_make_the_same_report(small_study, tmp_path):
    store = Store(tmp_path / "runs")
    for record in small_study:
        store.write(record)
    assert write_report(store.records(), store.folder / "report") == write_report(small_study, tmp_path / "other")
    # The report may lie among the runs: it is no run.
    assert len(list(store.records())) == len(small_study)


@pytest.mark.parametrize("failed", [0, 2])
def test_no_run_with_a_score_is_refused_and_nothing_is_written(record, tmp_path, failed):
    records = [record("a", "ce", 0, status="failed"), record("a", "0", 0, 0.5, status="diverged")][:failed]
    with pytest.raises(UsageError, match=f"there are {failed} runs and none has one"):
        write_report(records, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_analysis_and_the_records_it_reads_need_no_torch():
    code = "import sys, hf_elmix.analysis.report, hf_elmix.study.store; print('torch' in sys.modules)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "False"
