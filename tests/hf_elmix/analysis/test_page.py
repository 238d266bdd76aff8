"""The page of a report in a real browser: a headless Chromium, driven by Selenium."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from hf_elmix.analysis.frames import curves_table, runs_table
from hf_elmix.analysis.report import write_report
from hf_elmix.analysis.results import StudyResults
from hf_elmix.predictions.records import Predictions
from hf_elmix.study.spec import RunRecord

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NASTY = "<img src=x onerror=\"document.title='broken out'\">&'"
WIDTHS = (390, 1440)


@pytest.fixture(scope="module")
def page(
    record: Callable[..., RunRecord], predictions: Callable[..., Predictions], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The page of a study with a failed and a diverged run, predictions, and names that try to break out."""
    rng = np.random.default_rng(0)
    records = []
    for task in ("cola", "rte", NASTY):
        for place, method in enumerate(("ce", "0-0.5", NASTY)):
            for seed in range(3):
                score = round(0.6 + 0.02 * place + float(rng.normal(scale=0.01)), 4)
                run = record(task, method, seed, score, wrong=1 - score)
                run.settings["secondary_metrics"] = {"wrong": f"rows made wrong that are memorised {NASTY}"}
                log = {"loss_ce": 0.5 - place / 10, "loss_el": 0.3, "alpha": 1.0, "beta": 1.0 * place}
                run.training.extend({"epoch": float(epoch), **log} for epoch in (1, 2))
                records.append(run)
    records[0] = RunRecord(**{**vars(records[0]), "status": "failed", "error": f"RuntimeError: {NASTY}" * 3})
    records[5] = RunRecord(**{**vars(records[5]), "status": "diverged"})
    readers = {one.key: lambda k=k: {"": predictions(60, points=3, seed=k)} for k, one in enumerate(records[:9])}
    results = StudyResults(runs_table(records), curves_table(records), predictions=readers)
    folder = tmp_path_factory.mktemp("page")
    write_report(results, folder, title=NASTY, commands=["x " * 90])
    return folder / "report.html"


@pytest.fixture
def opened(chromium: Any, page: Path) -> Any:
    """The browser with the page, opened from disk."""
    chromium.get_log("performance")
    show(chromium, 1440)
    chromium.get(page.as_uri())
    return chromium


def show(browser: Any, width: int, mode: str = "light", media: str = "") -> None:
    features = [{"name": "prefers-color-scheme", "value": mode}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def screenshot(browser: Any, path: Path) -> np.ndarray:
    size = [browser.execute_script(f"return document.documentElement.scroll{side}") for side in ("Width", "Height")]
    clip = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    path.write_bytes(base64.b64decode(shot["data"]))
    return matplotlib.image.imread(path)[..., :3]


def column(browser: Any, table: str, place: int) -> list[str]:
    script = "return Array.from(document.querySelectorAll(arguments[0]), row => row.cells[arguments[1]].textContent)"
    return browser.execute_script(script, f"#table-{table} tbody tr", place)


def press(browser: Any, table: str, place: int) -> str | None:
    script = "const head = document.querySelectorAll(arguments[0])[arguments[1]];"
    script += "head.querySelector('button').click(); return head.getAttribute('aria-sort')"
    return browser.execute_script(script, f"#table-{table} thead th", place)


def test_no_error_and_no_request(opened):
    assert opened.get_log("browser") == []
    requests = [
        entry["message"] for entry in opened.get_log("performance") if 'Network.requestWillBeSent"' in entry["message"]
    ]
    assert len(requests) == 1  # the page itself
    assert "file:///" in requests[0]
    assert opened.title == NASTY


def test_names_do_not_become_elements(opened):
    assert opened.execute_script("return document.images.length") == 0
    assert NASTY in opened.find_element("tag name", "h1").text


@pytest.mark.parametrize("place", range(6))
def test_columns_sort_as_what_they_are(opened, place):
    def number(text: str) -> float:
        return float(text.split("/")[0].replace("−", "-"))

    key = number if place else str.lower
    before = column(opened, "methods", place)
    assert press(opened, "methods", place) == "ascending"
    rising = column(opened, "methods", place)
    assert sorted(rising) == sorted(before)
    assert list(map(key, rising)) == sorted(map(key, before))
    assert press(opened, "methods", place) == "descending"
    assert list(map(key, column(opened, "methods", place))) == sorted(map(key, before), reverse=True)


def test_runs_without_a_score_sort_last_either_way(opened):
    header = opened.execute_script(
        "return Array.from(document.querySelectorAll('#table-runs thead th'), h => h.textContent)"
    )
    place = header.index("score")
    for _ in range(2):
        press(opened, "runs", place)
        assert column(opened, "runs", place)[-2:] == ["", ""]
        assert all(column(opened, "runs", place)[:-2])


def test_one_column_at_a_time_is_sorted(opened):
    press(opened, "methods", 1)
    press(opened, "methods", 2)
    assert len(opened.find_elements("css selector", "#table-methods [aria-sort]")) == 1


def test_the_keyboard_reaches_and_sorts(opened):
    from selenium.webdriver.common.keys import Keys

    for _ in range(40):
        opened.switch_to.active_element.send_keys(Keys.TAB)
        focused = opened.switch_to.active_element
        if focused.tag_name == "button":
            break
    assert focused.text.startswith("method")
    assert focused.value_of_css_property("outline-style") == "solid"
    focused.send_keys(Keys.ENTER)
    head = opened.find_element("css selector", "#table-methods thead th")
    assert head.get_attribute("aria-sort") == "ascending"
    focused.send_keys(Keys.SPACE)
    assert head.get_attribute("aria-sort") == "descending"


def test_the_first_stop_of_the_keyboard_leads_to_the_verdict(opened):
    from selenium.webdriver.common.keys import Keys

    opened.find_element("tag name", "body").send_keys(Keys.TAB)
    first = opened.switch_to.active_element
    assert first.text == "Skip to the verdict"
    assert first.rect["x"] >= 0


def test_runs_are_filtered_by_every_word(opened):
    opened.find_element("css selector", "[data-filter]").send_keys("RTE 0-0.5")
    shown = opened.execute_script(
        "return Array.from(document.querySelectorAll('#table-runs tbody tr:not([hidden])')).length"
    )
    assert shown == 3
    assert opened.find_element("tag name", "output").text == "3 of 27"


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_and_can_be_read(opened, tmp_path, width, mode):
    show(opened, width, mode)
    wide = opened.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1] == width
    image = screenshot(opened, tmp_path / "page.png")
    assert image.shape[1] == width
    ground = np.median(image.reshape(-1, 3), axis=0)
    assert (ground.mean() > 0.9) == (mode == "light")
    assert (ground.mean() < 0.2) == (mode == "dark")
    # Words of figures and text stand out from it (a contrast of 4.5 to 1 and more).
    for name in ("body", "figcaption", ".verdict p", "svg text", "a", "td"):
        assert contrast(opened, name) >= 4.5, name
    sizes = "return Array.from(document.querySelectorAll('details[open] svg text, .figures svg text'), "
    sizes += "t => parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a).filter(size => size)"
    assert min(opened.execute_script(sizes)) >= 9  # pixels


def contrast(browser: Any, selector: str) -> float:
    script = """
    const element = document.querySelector(arguments[0]), style = getComputedStyle(element);
    let at = element, ground;
    while (at && (ground = getComputedStyle(at).backgroundColor).endsWith(', 0)')) at = at.parentElement;
    return [element instanceof SVGElement ? style.fill : style.color, ground]"""
    colours = browser.execute_script(script, selector)
    lights = []
    for colour in colours:
        parts = np.array([float(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        lights.append(float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05)
    return max(lights) / min(lights)


def test_the_name_of_a_row_stays_visible(opened):
    show(opened, 390)
    script = "const box = document.querySelector('#table-secondary-1 .scroll'); box.scrollLeft = 150;"
    script += "const name = box.querySelector('tbody th').getBoundingClientRect(), edge = box.getBoundingClientRect();"
    script += "return [box.scrollLeft, name.left - edge.left, name.width / edge.width]"
    scrolled, left, share = opened.execute_script(script)
    assert scrolled == 150
    assert 0 <= left < 3
    assert share < 0.6


def test_print_is_light_and_shows_what_was_folded(opened):
    show(opened, 1440, "dark", media="print")
    assert opened.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not opened.find_element("tag name", "nav").is_displayed()
    opened.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert opened.find_elements("css selector", "details:not([open])") == []
    opened.execute_script("dispatchEvent(new Event('afterprint'))")
    assert opened.find_elements("css selector", "details:not([open])")
    pdf = base64.b64decode(opened.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert pdf.startswith(b"%PDF")


def test_a_screen_reader_hears_names(opened):
    for selector in ("svg", ".scroll", "nav", ".verdict"):
        for element in opened.find_elements("css selector", selector):
            assert element.get_attribute("aria-label")
    assert opened.execute_script("return document.documentElement.lang") == "en"
    levels = opened.execute_script("return Array.from(document.querySelectorAll('h1,h2,h3'), h => +h.tagName[1])")
    assert levels[0] == 1
    assert all(later - earlier <= 1 for earlier, later in zip(levels, levels[1:], strict=False))
