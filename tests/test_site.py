"""The documentation site: it builds, loads nothing from elsewhere, is found by searching, and fits on a phone."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

CONFIG = Path(__file__).parents[1] / "hf_elmix" / "docs" / "mkdocs.yml"
ELSEWHERE = r"""<(script|link|img|iframe|source)[^>]* (src|href|srcset)="?(https?:)?//[^">]*"""
# What people search for, and where it leads.
SOUGHT = {
    "cite": "cite.html",
    "fp16": "scale.html#one-gpu-bf16-and-fp16",
    "class weights": "trainer.html#class-weights",
    "out of memory": "faq.html#out-of-memory",
    "resume": "faq.html#resume-training-that-was-stopped",
    "gradient accumulation": "trainer.html#gradient-accumulation-and-several-processes",
}
BROKEN_WORDS = """
return [...document.querySelectorAll(".md-content .word")].filter(word => word.getClientRects().length > 1)
    .map(word => word.textContent);
"""
SQUASHED = """
return [...document.querySelectorAll(".md-content td")].filter(cell => cell.clientHeight > 400)
    .map(cell => cell.textContent);
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(CONFIG), "-d", str(folder)]
    quiet = {"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}  # no banners about successors of MkDocs
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **quiet}, timeout=500)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    """The address of the site: a browser searches only what a server hands out."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def pages(site: Path) -> list[Path]:
    """The pages that were written by hand."""
    return [path for path in sorted(site.glob("*.html")) if path.name != "404.html"]


def test_nothing_is_loaded_from_elsewhere(site):
    found = {path.name: re.findall(ELSEWHERE, path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    assert {name: links for name, links in found.items() if links} == {}
    assert 'src="katex/katex.min.js"' in (site / "loss.html").read_text(encoding="utf-8")


def test_lists_are_lists(site):
    """An item that follows an indented block without an empty line is text."""
    found = {
        path.name: re.findall(r"^(?:[-*]|\d+\.) .*", path.read_text(encoding="utf-8"), re.M) for path in pages(site)
    }
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.browser
@pytest.mark.parametrize("words", SOUGHT)
def test_search_finds(chromium: Any, served, words):
    from selenium.webdriver.support.ui import WebDriverWait

    chromium.get(f"{served}/index.html?q={words.replace(' ', '+')}")
    results = WebDriverWait(chromium, 60).until(
        lambda browser: browser.find_elements("css selector", ".md-search-result__link")
    )
    assert any(link.get_attribute("href").startswith(f"{served}/{SOUGHT[words]}") for link in results[:4]), [
        link.get_attribute("href") for link in results[:4]
    ]


@pytest.mark.browser
def test_pages_fit_on_a_phone(chromium: Any, served, site):
    """No page scrolls sideways, no flag is broken, no table is squashed, and all formulas are set."""
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    formulas = 0
    for page in pages(site):
        chromium.get(f"{served}/{page.name}")
        assert chromium.execute_script("return document.documentElement.scrollWidth") <= 390, page.name
        assert chromium.execute_script(BROKEN_WORDS) == [], page.name
        assert chromium.execute_script(SQUASHED) == [], page.name
        marked = chromium.find_elements("css selector", ".arithmatex")
        assert len(
            chromium.find_elements("css selector", ".arithmatex > .katex, .arithmatex > .katex-display")
        ) == len(marked)
        assert not chromium.find_elements("css selector", ".katex-error")
        formulas += len(marked)
    assert formulas > 20
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
