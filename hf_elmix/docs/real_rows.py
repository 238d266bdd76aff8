"""Print what comparisons found beside what a study of four seeds would have said, for the page compare.md.

    python hf_elmix/docs/real_rows.py FOLDER ...

Each folder is the ``--output_dir`` of an ``elmix compare`` on real rows.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator

from hf_elmix.analysis.comparison import compare
from hf_elmix.analysis.numbers import difference_text
from hf_elmix.analysis.results import read_study
from hf_elmix.analysis.sections.sequential import interval_of
from hf_elmix.analysis.sequential import verdicts
from hf_elmix.errors import UsageError
from hf_elmix.study.store import Store

HEADER = ("rows", "model", "method", "seeds", "difference at the stop", "verdict", "four seeds, t interval")


def rows_of(folder: str, seeds: int = 4) -> Iterator[tuple[str, ...]]:
    """A row of the table for each method of a comparison."""
    store = Store(folder)
    results = read_study(store)
    if results.looks_df is None or results.rules is None:
        raise UsageError(f"Expected the folder of a comparison, but got {folder!r}.")
    model = next(iter(store.records())).settings["model"].rpartition("/")[2]
    fixed = compare(results.scores.head(seeds), results.baseline)
    for row in verdicts(results.looks_df, results.rules).itertuples():
        early = fixed.loc[str(row.Index)]
        found = difference_text(early, results.scale) if early["pairs"] == seeds else "n/a"
        said = "better" if early["low"] > 0 else "worse" if early["high"] < 0 else "not significant"
        ends = interval_of(row.low, row.high)
        shown = f"{row.difference:+.2f} {ends}".replace("-", "−").strip()
        task = results.scores.index.get_level_values("task")[0]
        fixed_text = f"{found}: {said}" if found != "n/a" else found
        yield task, model, str(row.Index), str(row.seeds), shown, str(row.verdict), fixed_text


def commands_of(folder: str) -> list[str]:
    """The commands of a comparison, without the names of folders."""
    return [re.sub(r" --(output_dir|workers) \S+", "", command) for command in Store(folder).declaration()["commands"]]


def main(folders: Iterable[str]) -> None:
    """Print the table and the commands."""
    folders = list(folders)
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    for folder in folders:
        for row in rows_of(folder):
            print(f"| {' | '.join(row)} |")
    print("\n```bash")
    for folder in folders:
        print("\n".join(commands_of(folder)))
    print("```")


if __name__ == "__main__":
    main(sys.argv[1:])
