from __future__ import annotations

import base64
import csv
import hashlib
import re
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

from hf_elmix.analysis.frames import curves_table, read_scores, runs_table, scores_table
from hf_elmix.analysis.profile import performance_profile
from hf_elmix.analysis.report import MISSING_FONT, write_report
from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sections import sections_of
from hf_elmix.analysis.sections.calibration import calibration_pairs, calibration_section
from hf_elmix.analysis.sections.cohorts import cohort_section
from hf_elmix.analysis.sections.summary import verdict
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
    ".files",
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
    """The tags of a page in order, and its text."""

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
    """A study whose names and texts all try to break out."""
    made = [record(f"task{NASTY}", method, seed, 0.25 + seed / 8) for method in ("ce", NASTY) for seed in (0, 1, 2)]
    failed = record("b", NASTY, 0, status="failed")
    failed.settings[NASTY] = {NASTY: NASTY}
    made[0].training.append({"epoch": 1.0, "loss_ce": 1.0, "loss_el": 0.5, "alpha": 1.0, "beta": 0.0})
    return [*made, RunRecord(**{**vars(failed), "error": f"Error: {NASTY}\n</td></table>"})]


@pytest.fixture(scope="module")
def written(small_study, tmp_path_factory) -> tuple[Path, str]:
    """The report of the small study in a folder that it makes, and its text."""
    folder = tmp_path_factory.mktemp("reports") / "new" / "report"
    return folder, write_report(results_of(small_study), str(folder), title="A title", commands=["make it"])


@pytest.fixture(scope="module")
def html(written) -> str:
    return (written[0] / "report.html").read_text()


def test_the_report_is_these_files_in_a_folder_it_makes(written):
    assert files(written[0]) == FILES


def test_verdict_and_scores_come_back_as_text(small_study, written):
    _, text = written
    for sentence in verdict(results_of(small_study)):
        assert sentence in text
    cells = ["cola", "62.50 ± 17.68 (2)", "75.00 ± 35.36 (2)", "25.00 (1/2)"]
    assert re.search(r"\| " + r" +\| ".join(map(re.escape, cells)) + r" +\|", text)


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


def test_the_picture_shows_a_curve_for_each_method(written):
    image = matplotlib.image.imread(written[0] / "figures/profile.png")
    assert min(image.shape[:2]) > 500
    assert [has_colour(image, style.colour) for style in STYLES] == [True, True, True, False, False, False]


def test_the_drawing_is_xml_with_its_words_as_text(written):
    root = ElementTree.parse(written[0] / "figures/profile.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = {"".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")}
    titles = {
        "CE (3/4 runs)",
        "F = 0-0.5 (ramp)",
        "F = 0.3 (constant) (2/4 runs)",
        "Performance profile over 4 blocks",
    }
    assert titles <= words


def test_the_same_records_make_the_same_files(small_study, written, tmp_path):
    write_report(results_of(small_study[::-1]), tmp_path, title="A title", commands=["make it"])
    for file in FILES - {"data/curves.csv", "data/curves.parquet"}:  # those are in the order of the records
        assert (written[0] / file).read_bytes() == (tmp_path / file).read_bytes(), file


def test_no_figure_and_no_setting_stays_behind(small_study, tmp_path):
    figures, settings = plt.get_fignums(), dict(plt.rcParams)
    write_report(results_of(small_study), tmp_path)
    assert plt.get_fignums() == figures
    assert dict(plt.rcParams) == settings


def test_a_study_of_one_method_has_a_report(record, tmp_path):
    write_report(StudyResults(runs_table([record("a", "ce", 0, 0.5)])), tmp_path)
    assert "there is nothing to compare" in (tmp_path / "report.html").read_text()
    assert "figures/ranks.svg" not in files(tmp_path)


def test_scores_alone_have_no_settings_and_no_curves(tmp_path):
    runs_df = pd.DataFrame({"task": "a", "method": ["x", "y"], "seed": 0, "status": "done", "score": [1.0, 2.0]})
    write_report(StudyResults(runs_df), tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert len(page.of("svg")) == 3
    for heading in ("Settings", "Secondary metrics", "Training", "Reproduce"):
        assert heading not in page.text
    assert "data/curves.csv" not in files(tmp_path)


# The page.


def test_the_page_has_the_verdict_first_and_everything_of_its_sections(small_study, html):
    results = results_of(small_study)
    page = Page(html)
    places = [page.text.index(sentence) for sentence in verdict(results)]
    assert places == sorted(places)
    assert page.text.index("A title") < places[0]
    assert places[-1] < page.text.index("Performance profile: for each")
    for section in sections_of(results):
        assert f"{section.title}\n" in page.text
        for table in section.tables:
            for text in (table.title, table.caption, *(cell for row in table.texts() for cell in row)):
                assert text in page.text
    assert "Reproduce\nmake it" in page.text
    assert len(page.of("svg")) == 3 + 2 * 2 + 1  # and two of curves for each task, and the weights
    captions = {
        f"{heading}: {picture.caption}" if heading else picture.caption
        for section in sections_of(results)
        for heading, pictures in section.pictures
        for picture in pictures
    }
    assert {svg["aria-label"] for svg in page.of("svg") if svg["role"] == "img"} == captions


def test_nothing_is_loaded_from_elsewhere(html):
    page = Page(html)
    loading = [(tag, attrs) for tag, attrs in page.tags if tag in ("script", "img", "link", "iframe", "object", "use")]
    for tag, attrs in loading:
        address = attrs.get("src") or attrs.get("href") or attrs.get("xlink:href")
        assert address is None or address.startswith(("#", "data:")), (tag, attrs)
    assert "@import" not in html
    assert set(re.findall(r"url\((.)", html)) <= {"#"}
    assert set(re.findall(r"https?://[^\"' ]+", html)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_ids_are_unique_and_links_have_a_target(html):
    page = Page(html)
    ids = Counter(attrs["id"] for _, attrs in page.tags if "id" in attrs)
    assert max(ids.values()) == 1
    for _, attrs in page.tags:
        for name in ("href", "xlink:href"):
            if (attrs.get(name) or "").startswith("#"):
                assert attrs[name][1:] in ids
        for reference in re.findall(r"url\(#([^)]+)\)", " ".join(filter(None, attrs.values()))):
            assert reference in ids


def test_black_becomes_the_colour_of_the_text(html):
    svgs = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(svgs) == 8
    for svg in svgs:
        assert "#000000" not in svg
        assert "currentColor" in svg
        assert "#ffffff" not in svg


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


def test_sections_of_predictions_are_shown(shown):
    folder, results, text = shown
    page = Page((folder / "report.html").read_text())
    sections = [cohort_section(results), calibration_section(results)]
    places = [page.text.index(f"{section.title}\n") for section in sections]
    assert page.text.index("Scores by task\n") < places[0] < places[1] < page.text.index("Training\n")
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


def test_the_files_of_predictions(shown):
    figures = [f"{name}-{k}" for name in ("sankey", "ridgeline") for k in (1, 2, 3)] + [
        "reliability-1",
        "reliability-2",
    ]
    assert files(shown[0]) - FILES == {
        *(f"figures/{name}.{kind}" for name in figures for kind in ("png", "svg")),
        *(f"data/{name}.{kind}" for name in (*COHORT_DATA, *CALIBRATION_DATA) for kind in ("csv", "parquet")),
    }


def test_the_numbers_of_predictions_can_be_read_again(shown, predicted_study):
    folder, results, _ = shown
    transitions = pd.read_parquet(folder / "data/transitions.parquet").set_index(["task", "method", "seed"])
    one = transition_table(predicted_study[1][RunKey("rte", "ce", 1)]()[""]).reset_index()
    assert_frame_equal(transitions.loc[("rte", "ce", 1), one.columns].reset_index(drop=True), one)
    flows = read_csv(folder / "data/cohort_flows.csv").drop(columns=["start", "seed"])
    assert flows.sum(numeric_only=True).sum() == 60 * 10  # rows of each run with a file
    pairs = read_csv(folder / "data/calibration_pairs.csv").set_index(["measure", "when", "method"])
    expected = calibration_pairs(results.prediction_summary.calibration, results.methods, "ce")["brier", "as trained"]
    difference = pairs.loc[("brier", "as trained", ODD), "difference"]
    assert difference == pytest.approx(expected.loc[ODD, "difference"], rel=1e-15)


def test_the_text_has_no_table_longer_than_a_screen(record, tmp_path):
    runs_df = runs_table(record(f"t{k}", "ce", 0, 0.5) for k in range(41))
    assert write_report(StudyResults(runs_df), tmp_path).endswith("Scores of 41 tasks: tables.md\n")
    assert "| t40  | 50.00 (1) |" in (tmp_path / "tables.md").read_text()


def test_names_are_only_text(nasty_study, tmp_path):
    text = write_report(results_of(nasty_study), tmp_path, title=NASTY, commands=[NASTY])
    html = (tmp_path / "report.html").read_text()
    page = Page(html)
    assert len(page.of("script")) == 1
    assert "alert(" not in re.sub(r"&lt;script&gt;alert\(", "", html)
    for shown in (f"task{NASTY}", f"Error: {NASTY}\n</td></table>", f"{NASTY}.{NASTY}"):
        assert shown in page.text
    assert NASTY in text.replace("\\", "")
    assert "<script" not in (tmp_path / "tables.md").read_text().replace("\\<", "")
    ElementTree.parse(tmp_path / "figures/differences.svg")


def test_a_png_says_that_its_fonts_lack_characters(tmp_path):
    """Private-use characters are in no font; the same name of Latin letters has no note."""
    heights = {}
    for name in ("\ue123\ue124", "mmmm"):
        runs_df = pd.DataFrame({"task": ["a", "b"] * 2, "seed": 0, "method": ["ce"] * 2 + [name] * 2})
        runs_df = runs_df.assign(score=[0.5, 0.5, 0.75, 0.25], status="done")
        write_report(StudyResults(runs_df), tmp_path / name)
        heights[name] = plt.imread(tmp_path / name / "figures" / "ranks.png").shape[0]
        assert MISSING_FONT not in (tmp_path / name / "figures" / "ranks.svg").read_text("utf-8")
    assert heights["\ue123\ue124"] > heights["mmmm"]


def test_a_missing_run_is_shown_as_such(html):
    page = Page(html)
    assert "3/4" in page.text
    assert "F = 0.3 (constant) (2/4 runs)" in page.text
    assert "9 of 11 runs have a score" in page.text


def test_a_report_that_is_interrupted_leaves_the_old_one(small_study, tmp_path, monkeypatch):
    results, folder = results_of(small_study), tmp_path / "report"
    write_report(results, folder, title="old")
    before = {name: (folder / name).read_bytes() for name in files(folder)}
    monkeypatch.setattr("hf_elmix.analysis.report._page", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(results, folder, title="new")
    assert {name: (folder / name).read_bytes() for name in files(folder)} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_only_the_script_of_the_page_may_run(html):
    policy = next(attrs["content"] for attrs in Page(html).of("meta") if attrs.get("http-equiv"))
    script = html.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_control_characters_reach_neither_the_text_nor_the_figures(record, tmp_path):
    nasty = "\x1b[2J\u202e\n"
    text = write_report(
        results_of([record("a", method, seed, 0.5) for method in ("ce", nasty) for seed in (0, 1)]), tmp_path
    )
    assert r"\x1b[2J\u202e" in text
    for shown in (text, (tmp_path / "tables.md").read_text(), (tmp_path / "figures/ranks.svg").read_text()):
        assert not {"\x1b", "\u202e"} & set(shown)
    ElementTree.parse(tmp_path / "figures/ranks.svg")


def test_names_are_no_formulas_in_a_spreadsheet_and_can_be_read_again(record, tmp_path):
    formula = '=HYPERLINK("http://x","y")'
    write_report(results_of([record(formula, method, 0, 0.5) for method in ("ce", "+1+1", "-0.5")]), tmp_path)
    rows = list(csv.reader((tmp_path / "data/runs.csv").open()))
    assert {row[0] for row in rows[1:]} == {f"'{formula}"}
    assert sorted(row[1] for row in rows[1:]) == ["'+1+1", "-0.5", "ce"]
    again = read_scores(tmp_path / "data/runs.csv")
    assert set(again["task"]) == {formula}
    assert set(again["method"]) == {"ce", "+1+1", "-0.5"}
    assert set(pd.read_parquet(tmp_path / "data/runs.parquet")["task"]) == {formula}
