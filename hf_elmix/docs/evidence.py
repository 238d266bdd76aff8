"""What the page *Does it work?* says of our studies, from their records.

    python hf_elmix/docs/evidence.py RUNS            # take over the records of: elmix study tables --output_dir RUNS
    python hf_elmix/docs/evidence.py --images RUNS   # those of: elmix study images --output_dir RUNS
    python hf_elmix/docs/evidence.py                 # write the page's numbers and the figure again

A test fails if the page or the figure differs from what the records give.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hf_elmix.analysis.comparison import compare
from hf_elmix.analysis.formats import markdown_table
from hf_elmix.analysis.frames import runs_table
from hf_elmix.analysis.numbers import difference_text, gain_text, number, p_equals
from hf_elmix.analysis.ranks import conover, friedman, wins
from hf_elmix.losses.registry import LOSS_SETS
from hf_elmix.plotting import drawn_name, method_label
from hf_elmix.study.spec import RunKey, RunRecord, Select
from hf_elmix.study.store import Store

DOCS = Path(__file__).parent
RECORDS = DOCS / "evidence" / "tables.parquet"
PAGE, README = DOCS / "pages" / "does_it_work.md", DOCS.parents[1] / "README.md"
IMAGES = DOCS / "evidence" / "images.parquet"  # once that study is done
FIGURE = DOCS / "pages" / "figures" / "tables.png"

SIX = LOSS_SETS["table4"]
RESCALED = "ce-rescaled:0-0.5"
MODELS = {"linear": "Linear classifier", "hidden": "One hidden layer"}
SELECT = Select("accuracy", "best", chosen_on="validation", scored_on="test")

# The paper's Table 4: wins of 121 tables, mean gain in points, mean rank.
PAPER = {
    "linear": [
        *((33, 0.0, 2.59), (32, 0.09, 2.39), (31, 0.20, 2.30)),
        *((48, 0.30, 2.12), (33, -2.71, 3.25), (26, -0.56, 3.13)),
    ],
    "hidden": [
        *((26, 0.0, 2.70), (30, 0.12, 2.62), (37, 0.27, 2.40)),
        *((42, 0.30, 2.37), (33, -4.73, 3.52), (25, -0.89, 3.03)),
    ],
}

# The paper's Table 1: ResNet20 on the whole of CIFAR-100, 240 epochs, mean and standard deviation over four seeds.
PAPER_IMAGES = {"ce": "68.25 ± 0.53", "0": "68.58 ± 0.08", "0,0.5": "68.58 ± 0.08", "0-0.5": "68.48 ± 0.14"}
ABOUT_IMAGES = """## Pictures

A reduced form of one row of the paper's Table 1: ResNet20 on 20,000 training and 5,000 test images of CIFAR-100,
{epochs} epochs instead of 240, in {precision} ([the recipe](images.md)). Accuracies are lower than on the whole data
set, and not comparable with the paper's.

```text
elmix study images --dataset_name uoft-cs/cifar100 --models resnet20 --num_train_epochs {epochs} --seeds {seeds} --bf16
```"""


def compact(runs: Path) -> pd.DataFrame:
    """One row for each run, candidates of a sweep included: its status, and both accuracies at its best epoch."""
    rows = []
    for model in MODELS:
        store = Store(runs / model)
        records = {record.key: record for record in store.records()}
        for key in (
            key for key in store.asked() if key in records
        ):  # of equal candidates, the first asked for is chosen
            record, done = records[key], records[key].status == "done"
            choice, score = (SELECT.choice(record.scores), record.score) if done else (None, None)
            rows.append((model, key.task, key.method, key.seed, record.status, choice, score))
    table = pd.DataFrame(rows, columns=["model", "task", "method", "seed", "status", "validation", "test"])
    return table.astype({"model": "category", "task": "category", "method": "category", "status": "category"})


def scores_of(table: pd.DataFrame, model: str) -> pd.DataFrame:
    """Test accuracy by block (task, seed) and method, at the learning rate with the best validation accuracy."""
    records = []
    for row in table[table["model"] == model].itertuples():
        found = {"validation_accuracy": row.validation, "test_accuracy": row.test}
        scores = {name: {"last": x, "best": x, "epochs": [x], "steps": [1]} for name, x in found.items()}
        key, settings = RunKey(row.task, row.method, row.seed), {"select": SELECT.to_settings()}
        records.append(RunRecord(key, row.status, scores, [], settings, {}, {}))
    runs = runs_table(records)
    return runs.pivot(index=["task", "seed"], columns="method", values="score")[[*SIX, RESCALED]]


def by_table(scores: pd.DataFrame) -> pd.DataFrame:
    """The mean over seeds, in percent: one row for each table in which every method has a score with every seed."""
    means = scores.groupby("task").agg(lambda column: column.mean(skipna=False)).dropna() * 100
    return means.set_index(pd.MultiIndex.from_product([means.index, [0]], names=["task", "seed"]))


def table4(scores: pd.DataFrame, model: str) -> str:
    """The paper's Table 4 beside ours, in Markdown."""
    means = by_table(scores)
    complete = scores[scores.index.get_level_values("task").isin(means.index.get_level_values("task"))]
    six, seeds = complete[list(SIX)], complete.index.get_level_values("seed").nunique()
    won = wins(six) / seeds
    # The paper's six mean ranks add up to less than 21: tied methods all have the best of their ranks there.
    ranks = six.rank(axis=1, ascending=False, method="min").mean()
    pairs = compare(means, "ce")
    rows = []
    for method, (paper_wins, paper_gain, paper_rank) in zip(SIX, PAPER[model], strict=True):
        gain = "0" if method == "ce" else difference_text(pairs.loc[method], 1)
        paper = [str(paper_wins), gain_text(paper_gain, 1) if paper_gain else "0", number(paper_rank)]
        rows.append([method_label(method), *paper, number(won[method], 1), gain, number(ranks[method])])
    rows.append([RESCALED, "", "", "", "", difference_text(pairs.loc[RESCALED], 1), ""])
    header = ["", "wins (paper)", "points (paper)", "rank (paper)", "wins", "points above CE", "rank"]
    return f"**{MODELS[model]}**, {len(means)} tables, {seeds} seeds:\n\n{markdown_table(header, rows)}"


def sentences(scores: pd.DataFrame, model: str) -> str:
    """What a reader should take from the table, no more than it shows."""
    means = by_table(scores)
    against_ce, against_rescaled = compare(means, "ce"), compare(means, RESCALED)
    test, pvalues = friedman(means[list(SIX)]), conover(means[list(SIX)])
    apart = [method_label(method) for method in SIX[1:] if pvalues.loc["ce", method] < 0.05]
    return (
        f"F = 0-0.5 gains {difference_text(against_ce.loc['0-0.5'], 1)} points over CE, and CE with the learning rate "
        f"scaled to the same step sizes gains {difference_text(against_ce.loc[RESCALED], 1)}; the difference between "
        f"the two is {difference_text(against_rescaled.loc['0-0.5'], 1)}. The ranks of the six methods differ "
        f"(Friedman {p_equals(test.pvalue)}); those that differ from CE (Conover, p < 0.05): "
        f"{', '.join(apart) or 'none'}."
    )


def caption(table: pd.DataFrame) -> str:
    """What README.md says below the figure."""
    pairs = {model: compare(by_table(scores_of(table, model)), "ce") for model in MODELS}
    count, seeds = int(pairs["linear"].loc["0-0.5", "pairs"]), table["seed"].nunique()
    mixed, rescaled = ([difference_text(pairs[m].loc[name], 1) for m in MODELS] for name in ("0-0.5", RESCALED))
    text = (
        f"*Points of test accuracy above cross entropy (CE) on {count} UCI tables, {seeds} seeds each, with 95 % "
        f"intervals over tables. With a linear classifier, the mixed loss F = 0-0.5 gains {mixed[0]}; with a hidden "
        f"layer, {mixed[1]}. Cross entropy with the learning rates scaled to the same step sizes gains {rescaled[0]} "
        f"and {rescaled[1]}, so a larger step may explain the gain ([does it "
        "work?](hf_elmix/docs/pages/does_it_work.md)).*"
    )
    return "\n".join(textwrap.wrap(text, 119, break_on_hyphens=False, break_long_words=False))


def figure(table: pd.DataFrame) -> Figure:
    """Difference of each method from CE with its interval, and the paper's, for both models."""
    drawn, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
    methods = [*SIX[1:4], RESCALED, SIX[5], SIX[4]]
    for ax, model in zip(axes, MODELS, strict=True):
        pairs = compare(by_table(scores_of(table, model)), "ce").loc[methods]
        places = np.arange(len(methods))[::-1]
        reach = pairs["high"] - pairs["difference"]
        ours: dict[str, Any] = {"fmt": "o", "color": "#0072B2", "label": "here, with 95 % interval"}
        ax.errorbar(pairs["difference"], places + 0.1, xerr=reach, **ours)
        paper = {method: gain for method, (_, gain, _) in zip(SIX, PAPER[model], strict=True)}
        known = [(paper[m], place - 0.15) for m, place in zip(methods, places, strict=True) if m in paper]
        ax.plot(*zip(*known, strict=True), "x", color="#D55E00", label="the paper's Table 4")
        ax.axvline(0, color="#000000", lw=1)
        ax.set_title(MODELS[model], fontsize=10)
        ax.set_yticks(places, [drawn_name(method) for method in methods])
        ax.set_xlabel("points of test accuracy above CE")
        ax.set_xscale("symlog", linthresh=1)
        ax.set_xticks([-5, -2, -1, -0.5, 0, 0.5, 1], ["−5", "−2", "−1", "−0.5", "0", "0.5", "1"])
        ax.minorticks_off()
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(loc="upper left", fontsize=8, frameon=False)
    return drawn


def compact_images(runs: Path) -> pd.DataFrame:
    """One row for each run: its test accuracy after the last epoch, and how it was trained. All must be done."""
    store = Store(runs)
    records = {record.key: record for record in store.records()}
    undone = [str(key) for key in store.asked() if key not in records or records[key].status != "done"]
    if undone:
        sys.exit(f"Expected all runs of {runs} to be done, but {len(undone)} are not, such as {undone[0]}.")
    rows = [
        (key.task, key.method, key.seed, record.score, arguments["num_train_epochs"], arguments.get("bf16", False))
        for key, record in sorted(records.items())
        for arguments in (record.settings["arguments"],)
    ]
    return pd.DataFrame(rows, columns=["task", "method", "seed", "test", "epochs", "bf16"])


def images_text(table: pd.DataFrame) -> str:
    """The paper's Table 1 beside ours, in Markdown."""
    scores = table.pivot(index=["task", "seed"], columns="method", values="test") * 100
    pairs = compare(scores, "ce")
    rows = [
        [
            *(method_label(method), paper, f"{number(scores[method].mean())} ± {number(scores[method].std())}"),
            "0" if method == "ce" else difference_text(pairs.loc[method], 1),
        ]
        for method, paper in PAPER_IMAGES.items()
    ]
    epochs, seeds = table["epochs"].iloc[0], sorted(set(table["seed"]))
    precision = "bfloat16" if table["bf16"].all() else "single precision"
    about = ABOUT_IMAGES.format(epochs=f"{epochs:g}", precision=precision, seeds=" ".join(map(str, seeds)))
    made = markdown_table(["", "paper, whole", f"ours, {len(seeds)} seeds", "points above CE"], rows)
    return f"{about}\n\n{made}\nIntervals are t intervals over seeds, 95 %; ± is the standard deviation."


def remade(table: pd.DataFrame) -> dict[Path, str]:
    """The texts of the page and of README.md, with the parts between their marks made again."""
    scores = {model: scores_of(table, model) for model in MODELS}
    parts = [f"{table4(scores[model], model)}\n{sentences(scores[model], model)}" for model in MODELS]
    page = _with(PAGE.read_text(encoding="utf-8"), "\n\n".join(parts))
    if IMAGES.exists():
        page = _with(page, images_text(pd.read_parquet(IMAGES)), "images")
    return {PAGE: page, README: _with(README.read_text(encoding="utf-8"), caption(table))}


def _with(text: str, made: str, part: str = "") -> str:
    """A text with another one between a mark and the end that follows."""
    mark = f"<!-- made {part}".rstrip() + " -->\n"
    before, _, rest = text.partition(mark)
    return f"{before}{mark}\n{made}\n\n<!-- end -->{rest.partition('<!-- end -->')[2]}"


def main(words: list[str]) -> None:
    """Take over records if a folder is given; then write the texts and the figure."""
    if words[:1] == ["--images"]:
        compact_images(Path(words[1])).to_parquet(IMAGES, compression="zstd", index=False)
    elif words:
        RECORDS.parent.mkdir(exist_ok=True)
        compact(Path(words[0])).to_parquet(RECORDS, compression="zstd", index=False)
    table = pd.read_parquet(RECORDS)
    for path, text in remade(table).items():
        path.write_text(text, encoding="utf-8")
    figure(table).savefig(FIGURE, dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    main(sys.argv[1:])
