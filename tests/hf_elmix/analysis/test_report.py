from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from pandas.testing import assert_frame_equal

from hf_elmix.analysis.calibrated import calibration_pairs
from hf_elmix.analysis.frames import curves_table, runs_table, scores_table
from hf_elmix.analysis.profile import performance_profile
from hf_elmix.analysis.report import render_page, write_report
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sections.calibration import calibration_section
from hf_elmix.analysis.sections.cohorts import cohort_section
from hf_elmix.analysis.tables import report_tables, runs_view, settings_view
from hf_elmix.analysis.words import secondary_sentence, verdict
from hf_elmix.plotting import STYLES
from hf_elmix.predictions.cohorts import transition_table
from hf_elmix.study.spec import RunKey, RunRecord

DATA = [
    "conover",
    "curves",
    "friedman",
    "gains",
    "methods",
    "pairs",
    "profile",
    "profile_high",
    "profile_low",
    "runs",
    "scores",
    "summary",
]
FILES = {
    "report.html",
    "tables.md",
    "tables.tex",
    *(f"figures/{name}.{kind}" for name in ("profile", "ranks", "differences") for kind in ("png", "svg")),
    *(f"data/{name}.{kind}" for name in DATA for kind in ("csv", "parquet")),
}
NASTY = "<script>alert('x')</script>&\"|$_"

# The file has every digit, but some versions of pandas read the last one wrongly.
UP_TO_PARSING: dict[str, float] = {"rtol": 1e-15, "atol": 0}


def results_of(records: list[RunRecord]) -> StudyResults:
    return StudyResults(runs_table(records), curves_table(records))


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def read_csv(path: Path) -> pd.DataFrame:
    # A method named '0' is a text.
    return pd.read_csv(path, dtype={"task": str, "method": str}, float_precision="round_trip")


def has_colour(image: np.ndarray, colour: str) -> bool:
    return bool((np.abs(image[..., :3] - to_rgb(colour)).max(axis=-1) < 0.02).any())


class Page(HTMLParser):
    """What a page is made of: its tags in order, the ids, and its text."""

    VOID = {"meta", "link", "input", "br", "img", "hr"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data.replace("\u00a0", " ")

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def nasty_study(record) -> list[RunRecord]:
    """A study of which every name and text tries to break out."""
    made = [record(f"task{NASTY}", method, seed, 0.25 + seed / 8) for method in ("ce", NASTY) for seed in (0, 1, 2)]
    failed = record("b", NASTY, 0, status="failed")
    failed.settings[NASTY] = {NASTY: NASTY}
    made[0].training.append({"epoch": 1.0, "loss_ce": 1.0, "loss_el": 0.5, "alpha": 1.0, "beta": 0.0})
    return [*made, RunRecord(**{**vars(failed), "error": f"Error: {NASTY}\n</td></table>"})]


@pytest.fixture(scope="module")
def written(small_study, tmp_path_factory) -> tuple[Path, str]:
    """The report of the small study in a folder that it makes, and its text."""
    folder = tmp_path_factory.mktemp("reports") / "new" / "report"
    return folder, write_report(results_of(small_study), str(folder))


def test_the_report_is_these_files_in_a_folder_it_makes(written):
    assert files(written[0]) == FILES


def test_verdict_and_scores_come_back_as_text(small_study, written):
    _, text = written
    for sentence in verdict(results_of(small_study)):
        assert sentence in text
    assert "| cola | 62.50 ± 17.68 (2) | 75.00 ± 35.36 (2) | 25.00 (1/2) |" in text


def test_csv_and_parquet_have_the_numbers_to_the_last_digit(small_study, record, tmp_path):
    records = [*small_study, record("rte", "0", 0, 0.1 + 0.2), record("rte", "0,0.5", 0, 1 / 3)]
    results = results_of(records)
    write_report(results, tmp_path)
    runs_df = runs_table(records)
    profile = performance_profile(scores_table(runs_df))
    expected = {
        "runs": runs_df,
        "profile": profile.reset_index(),
        "methods": results.methods_df.reset_index(),
        "pairs": results.pairs_df.reset_index(),
        "gains": results.gains_df.reset_index(),
        "scores": results.scores.reset_index().rename_axis(columns=None),
        "friedman": pd.DataFrame([results.friedman]),
    }
    for name, table in expected.items():
        table = table.replace({None: np.nan})
        written = read_csv(tmp_path / "data" / f"{name}.csv")
        assert_frame_equal(written, table, check_dtype=False, check_column_type=False, **UP_TO_PARSING)
        stored = pd.read_parquet(tmp_path / "data" / f"{name}.parquet").replace({None: np.nan})
        assert_frame_equal(stored, table, check_exact=True, check_column_type=False, check_dtype=False)


def test_the_profile_is_the_figures_by_hand(record, tmp_path):
    # ce is best once and at 0.5 of the best once; 0 the other way round at 0.8; one run of 0 failed.
    records = [
        record("a", "ce", 0, 0.5),
        record("a", "0", 0, 0.4),
        record("b", "ce", 0, 0.25),
        record("b", "0", 0, 0.5),
    ]
    write_report(results_of([*records, record("c", "ce", 0, 0.5), record("c", "0", 0, status="failed")]), tmp_path)
    expected = pd.DataFrame({"tau": [0.5, 0.8, 1.0], "ce": [1, 2 / 3, 2 / 3], "0": [2 / 3, 2 / 3, 1 / 3]})
    assert_frame_equal(read_csv(tmp_path / "data/profile.csv"), expected, **UP_TO_PARSING)


def test_the_picture_shows_a_curve_for_each_method(written):
    image = matplotlib.image.imread(written[0] / "figures/profile.png")
    assert min(image.shape[:2]) > 500
    assert [has_colour(image, style.colour) for style in STYLES] == [True, True, True, False, False, False]


def test_the_picture_of_methods_that_are_all_best_shows_a_flat_line(record, tmp_path):
    write_report(results_of([record("a", method, 0, 0.5) for method in ("ce", "0-0.5")]), tmp_path)
    image = matplotlib.image.imread(tmp_path / "figures/profile.png")
    # In the upper half, so that the key in the legend at the lower left does not count.
    assert has_colour(image[: image.shape[0] // 2], STYLES[1].colour)


def test_the_drawing_is_xml_with_its_words_as_text(written):
    root = ElementTree.parse(written[0] / "figures/profile.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = {"".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")}
    titles = {"CE (3/4 runs)", "F = 0-0.5", "F = 0.3 (2/4 runs)", "Performance profile over 4 experiments"}
    assert titles <= words


def test_the_same_records_make_the_same_files(small_study, written, tmp_path):
    write_report(results_of(small_study[::-1]), tmp_path)
    for file in FILES - {"data/curves.csv", "data/curves.parquet"}:  # those are in the order of the records
        assert (written[0] / file).read_bytes() == (tmp_path / file).read_bytes(), file


def test_no_figure_and_no_setting_stays_behind(small_study, tmp_path):
    figures, settings = plt.get_fignums(), dict(plt.rcParams)
    write_report(results_of(small_study), tmp_path)
    assert plt.get_fignums() == figures
    assert dict(plt.rcParams) == settings


def test_a_study_of_one_method_has_a_report(record, tmp_path):
    write_report(StudyResults(runs_table([record("a", "ce", 0, 0.5)])), tmp_path)
    assert "nothing to compare it with" in (tmp_path / "report.html").read_text()
    assert "figures/ranks.svg" not in files(tmp_path)


# The page.


def test_the_page_has_the_verdict_first_and_all_tables_and_figures(small_study):
    results = results_of(small_study)
    page = Page(render_page(results, title="A title", commands=["make it"]))
    places = [page.text.index(sentence) for sentence in verdict(results)]
    assert places == sorted(places)
    assert page.text.index("A title") < places[0]
    assert places[-1] < page.text.index("Performance profile: at each")
    for table in report_tables(results):
        for text in (table.title, table.caption, *(cell for row in table.texts() for cell in row)):
            assert text in page.text
    assert "make it" in page.text
    assert len(page.of("svg")) == 3 + 2 * 2 + 1  # and two of curves for each task, and the weights
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.of("svg"))


def test_nothing_is_loaded_from_elsewhere(small_study):
    text = render_page(results_of(small_study))
    page = Page(text)
    loading = [(tag, attrs) for tag, attrs in page.tags if tag in ("script", "img", "link", "iframe", "object", "use")]
    for tag, attrs in loading:
        address = attrs.get("src") or attrs.get("href") or attrs.get("xlink:href")
        assert address is None or address.startswith(("#", "data:")), (tag, attrs)
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert set(re.findall(r"https?://[^\"' ]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_ids_are_there_once_and_links_have_a_target(small_study):
    page = Page(render_page(results_of(small_study), commands=["x"]))
    ids = Counter(attrs["id"] for _, attrs in page.tags if "id" in attrs)
    assert max(ids.values()) == 1
    for _, attrs in page.tags:
        for name in ("href", "xlink:href"):
            if (attrs.get(name) or "").startswith("#"):
                assert attrs[name][1:] in ids
        for reference in re.findall(r"url\(#([^)]+)\)", " ".join(filter(None, attrs.values()))):
            assert reference in ids


def test_black_is_the_colour_of_the_text(small_study):
    text = render_page(results_of(small_study))
    svgs = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(svgs) == 8
    for svg in svgs:
        assert "#000000" not in svg
        assert "currentColor" in svg
        assert "#ffffff" not in svg


def test_what_is_told_beside_the_score_is_apart_from_the_verdict(record, tmp_path):
    records = [
        record(task, method, seed, 0.5 + seed / 8, wrong=0.25 + seed / 8 + place / 4)
        for task, (place, method), seed in itertools.product("ab", enumerate(["ce", "0"]), range(2))
    ]
    for one in records:
        one.settings["secondary_metrics"] = {"wrong": f"rows{NASTY} memorised"}
    results = results_of(records)
    text = write_report(results, tmp_path, title="A title")
    (sentence,) = [secondary_sentence(metric, "ce") for metric in results.secondary_metrics]
    assert f"{verdict(results)[-1]}\n{sentence}\n\n" in text
    page = Page((tmp_path / "report.html").read_text())
    assert page.text.index(verdict(results)[-1]) < page.text.index("Beside the score\n") < page.text.index(sentence)
    table = report_tables(results)[-1]
    assert table.texts() == [
        ["a", "31.25 ± 8.84 (2)", "56.25 ± 8.84 (2)"],
        ["b", "31.25 ± 8.84 (2)", "56.25 ± 8.84 (2)"],
        ["all tasks", "31.25 ± 7.22 (4)", "56.25 ± 7.22 (4)"],
    ]
    for written in (page.text, (tmp_path / "tables.md").read_text(), (tmp_path / "tables.tex").read_text()):
        assert "56.25" in written
    assert len(page.of("svg")) == 3 + 1 + 2 * 2 + 1
    ElementTree.parse(tmp_path / "figures/secondary-1.svg")
    assert files(tmp_path) - FILES == {
        *(f"figures/secondary-1.{kind}" for kind in ("png", "svg")),
        *(f"data/{name}.{kind}" for name in ("secondary_metrics", "secondary_pairs") for kind in ("csv", "parquet")),
    }
    summary = read_csv(tmp_path / "data/metric.csv").set_index(["metric", "task", "method"])
    assert summary.loc[("wrong", "all tasks", "0"), "mean"] == 0.5625
    pairs = read_csv(tmp_path / "data/aside_pairs.csv").set_index(["metric", "method"])
    assert pairs.loc[("wrong", "0"), "difference"] == 0.25


def test_nothing_is_said_beside_the_score_where_nothing_is_declared(small_study):
    page = render_page(results_of(small_study))
    assert "Beside the score" not in page


COHORT_DATA = ("transitions", "cohorts", "cohort_flows", "cohort_moves", "cohort_pairs", "histograms")
CALIBRATION_DATA = ("calibration", "calibration_pairs", "reliability")
ODD = f"{NASTY}{{x}}"


@pytest.fixture(scope="module")
def shown(predicted_study, tmp_path_factory) -> tuple[Path, StudyResults, str]:
    """The report of a study whose runs left predictions, one method with a name that tries to break out."""
    records, readers = predicted_study
    names = {one.key: replace(one.key, method=one.key.method.replace("0.3", ODD)) for one in records}
    records = [replace(one, key=names[one.key]) for one in records]
    readers = {names[key]: reader for key, reader in readers.items()}
    results = StudyResults(runs_table(records), curves_table(records), predictions=readers)
    folder = tmp_path_factory.mktemp("shown")
    return folder, results, write_report(results, folder)


def test_what_runs_said_of_each_row_is_shown(shown):
    folder, results, text = shown
    page = Page((folder / "report.html").read_text())
    sections = [cohort_section(results), calibration_section(results)]
    places = [page.text.index(f"{section.title}\n") for section in sections]
    assert page.text.index("Tables\n") < places[0] < places[1] < page.text.index("Training\n")
    links = [attrs.get("href") for attrs in page.of("a")]
    for section in sections:
        assert f"#{section.name}" in links
        assert len(section.tables) == 2
        for sentence in section.sentences:
            assert sentence in page.text
            assert f"{sentence}\n" in text
        for table in section.tables:
            for cell in (table.caption, *(cell for row in table.texts() for cell in row)):
                assert cell in page.text
            assert f"**{table.title}.**" in (folder / "tables.md").read_text()
            assert f"{{tab:{table.name}}}" in (folder / "tables.tex").read_text()
    assert len(page.of("svg")) == 3 + 3 + 3 + 2 + 2 * 2 + 1
    assert len(page.of("script")) == 1


def test_the_files_of_what_runs_said(shown):
    figures = [f"{name}-{k}" for name in ("flow", "histograms") for k in (1, 2, 3)] + [
        "reliability-1",
        "reliability-2",
    ]
    assert files(shown[0]) - FILES == {
        *(f"figures/{name}.{kind}" for name in figures for kind in ("png", "svg")),
        *(f"data/{name}.{kind}" for name in (*COHORT_DATA, *CALIBRATION_DATA) for kind in ("csv", "parquet")),
    }


def test_the_numbers_of_what_runs_said_can_be_read_again(shown, predicted_study):
    folder, results, _ = shown
    transitions = pd.read_parquet(folder / "data/transitions.parquet").set_index(["task", "method", "seed"])
    one = transition_table(predicted_study[1][RunKey("rte", "ce", 1)]()[""]).reset_index()
    assert_frame_equal(transitions.loc[("rte", "ce", 1), one.columns].reset_index(drop=True), one)
    flows = read_csv(folder / "data/cohort_flows.csv").drop(columns=["start", "seed"])
    assert flows.sum(numeric_only=True).sum() == 60 * 10  # rows of each run with a file
    pairs = read_csv(folder / "data/calibration_pairs.csv").set_index(["measure", "when", "method"])
    expected = calibration_pairs(results.predicted.calibration, results.methods, "ce")["brier", "as trained"]
    difference = pairs.loc[("brier", "as trained", ODD), "difference"]
    assert difference == pytest.approx(expected.loc[ODD, "difference"], rel=1e-15)


def test_of_many_tasks_only_the_first_have_curves(record):
    results = results_of([record(f"t{k}", "ce", 0, 0.5) for k in range(11)])
    page = Page(render_page(results))
    assert "3 more tasks are in data/curves.csv" in page.text
    assert len(page.of("svg")) == 1 + 2 * 8 + 1


def test_a_terminal_gets_no_table_longer_than_a_screen(record, tmp_path):
    runs_df = runs_table(record(f"t{k}", "ce", 0, 0.5) for k in range(41))
    assert write_report(StudyResults(runs_df), tmp_path).endswith("Scores of 41 tasks: tables.md\n")
    assert "| t40  | 50.00 (1) |" in (tmp_path / "tables.md").read_text()


def test_whatever_names_say_it_is_text(nasty_study, tmp_path):
    results = results_of(nasty_study)
    text = write_report(results, tmp_path, title=NASTY, commands=[NASTY])
    html = (tmp_path / "report.html").read_text()
    page = Page(html)
    assert len(page.of("script")) == 1
    assert "alert(" not in re.sub(r"&lt;script&gt;alert\(", "", html)
    for shown in (f"task{NASTY}", f"Error: {NASTY}\n</td></table>", f"{NASTY}.{NASTY}"):
        assert shown in page.text
    assert NASTY in text.replace("\\", "")
    assert "<script" not in (tmp_path / "tables.md").read_text().replace("\\<", "")
    ElementTree.parse(tmp_path / "figures/differences.svg")


def test_a_missing_run_is_shown_as_such(small_study):
    results = results_of(small_study)
    page = Page(render_page(results))
    assert "3/4" in page.text
    assert "F = 0.3 (2/4 runs)" in page.text
    assert "9 of 11 runs have a score" in page.text


# Tables.


def test_scores_by_hand(record):
    failed = [record("a", "0", seed, status="failed") for seed in range(3)]
    results = results_of([*failed, record("a", "ce", 0, 0.5), record("b", "ce", 0, 0.25), record("b", "ce", 1, 0.5)])
    (table,) = [table for table in report_tables(results) if table.name == "scores"]
    assert table.header == ["task", "CE", "F = 0"]
    assert table.texts() == [["a", "50.00 (1/3)", "no score (0/3)"], ["b", "37.50 ± 17.68 (2)", "no run"]]


def test_methods_and_pairs_by_hand(record):
    scores = {"ce": [0.5, 0.5, 0.5, 0.5], "0": [0.75, 0.5, 0.625, 0.125]}
    records = [record("ab"[k // 2], name, k % 2, value) for name, row in scores.items() for k, value in enumerate(row)]
    tables = {table.name: table for table in report_tables(results_of(records))}
    # Ratios to the best are 2/3, 1, 4/5, 1 and 1, 1, 1, 1/4: areas above 0.25.
    area = (np.mean([2 / 3, 1, 4 / 5, 1]) - 0.25) / 0.75, (np.mean([1, 1, 1, 0.25]) - 0.25) / 0.75
    assert tables["methods"].texts() == [
        ["CE", "4/4", "2", "+0.00", "1.62", f"{area[0]:.3f}"],
        ["F = 0", "4/4", "3", "+0.00", "1.38", f"{area[1]:.3f}"],
    ]
    (row,) = tables["pairs"].texts()
    assert row[:2] == ["F = 0", "+0.00"]
    assert row[3:7] == ["2/1/1", "0.62", "1.000", "1.000"]
    assert tables["gains"].texts()[0][0] == "a"
    assert tables["gains"].texts()[0][1].startswith("+12.50 [")
    assert [row[0] for row in tables["conover"].rows] == [row[0] for row in tables["methods"].rows]
    assert tables["profile"].header == [
        "method",
        "τ = 1",
        "τ = 0.99",
        "τ = 0.98",
        "τ = 0.95",
        "τ = 0.9",
        "τ = 0.8",
        "τ = 0.5",
    ]
    assert tables["profile"].texts()[0][1].startswith("0.50 [")


def test_runs_have_their_settings_and_errors(nasty_study):
    results = results_of(nasty_study)
    view = runs_view(results)
    header = ["task", "method", "seed", "status", "score", "seconds", "steps trained", "steps inherited", "error"]
    assert view.header == [*header, "settings"]
    assert len(view.rows) == 7
    shared, settings = settings_view(results.runs_df)
    assert shared == {"select": "accuracy"}
    assert settings.header == ["number", f"{NASTY}.{NASTY}"]
    failed = next(row for row in view.texts() if row[3] == "failed")
    assert settings.texts()[int(failed[-1]) - 1][1] == NASTY
    assert failed[8].startswith("Error: <script>")


def test_a_run_that_was_never_made_has_no_settings(record):
    results = StudyResults(runs_table([record("a", "ce", 0, 0.5)], [record("a", "0", 0).key]))
    assert [row[-1] for row in runs_view(results).texts()] == ["1", ""]


def test_scores_alone_have_no_settings_and_no_curves(tmp_path):
    runs_df = pd.DataFrame(
        {"task": ["a", "a"], "method": ["x", "y"], "seed": 0, "status": "done", "score": [1.0, 2.0]}
    )
    results = StudyResults(runs_df)
    assert runs_view(results).header == ["task", "method", "seed", "status", "score"]
    page = Page(render_page(results))
    assert len(page.of("svg")) == 3
    assert "Settings" not in page.text
    write_report(results, tmp_path)
    assert "data/curves.csv" not in files(tmp_path)


def test_analysis_and_the_records_it_reads_need_no_torch():
    code = "import sys, hf_elmix.analysis.report, hf_elmix.study.store; print('torch' in sys.modules)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "False"
