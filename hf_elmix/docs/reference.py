"""The API reference of the site: a page for each public module, and links from pages to them.

mkdocs-gen-files runs this file to write the pages, and MkDocs calls its `on_page_...` functions as hooks. In the
repository, a link from a page to a source file leads to that file; on the site, to the reference page of the module.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import mkdocs_gen_files

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "hf_elmix" / "docs" / "pages"


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Turn links to source files into links to their reference pages."""
    here = (PAGES / page.file.src_uri).parent

    def link(match: re.Match[str]) -> str:
        module = (here / match[1]).resolve().relative_to(ROOT)
        return f"]({posixpath.relpath(PAGES / 'reference' / module, here)}.md)"

    return re.sub(r"\]\((\.\.[^)#\s]+)\.py\)", link, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Mark the words in code, so that they are not broken: a browser breaks lines after each hyphen of a flag."""

    def words(match: re.Match[str]) -> str:
        return re.sub(r"(?<!\S)\S{2,36}(?!\S)", r'<span class="word">\g<0></span>', match[0])

    return re.sub(r"(?<=<code>)[^<\n]+(?=</code>)", words, html)


def write_pages() -> None:
    """Write a page for each module with `__all__`, and the navigation over them."""
    nav = mkdocs_gen_files.Nav()
    for path in (path for package in ("hf_elmix", "glue_runs") for path in sorted((ROOT / package).rglob("*.py"))):
        if path.stem.startswith("_") or "\n__all__ = " not in path.read_text():
            continue
        module = path.relative_to(ROOT).with_suffix("")
        nav[module.parts] = f"{module.as_posix()}.md"
        with mkdocs_gen_files.open(f"reference/{module.as_posix()}.md", "w") as page:
            name = ".".join(module.parts)
            # In a search, pages that were written by hand come first.
            page.write(f"---\nsearch:\n  boost: 0.2\n---\n\n# {name}\n\n::: {name}\n")
    with mkdocs_gen_files.open("reference/SUMMARY.md", "w") as summary:
        summary.writelines(nav.build_literate_nav())


if __name__ == "<run_path>":  # as mkdocs-gen-files runs it
    write_pages()
