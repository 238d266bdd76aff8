"""What the page *Does it work?* says of the studies of tables, text, reviews and images, from their records.

    python hf_elmix/docs/evidence.py tables RUNS ... # take over the records of: elmix study tables --output_dir RUNS
    python hf_elmix/docs/evidence.py uci121 DATA     # the sizes of the tables that it was given
    python hf_elmix/docs/evidence.py text RUNS ...   # the same for: elmix compare --output_dir RUNS, one or more
    python hf_elmix/docs/evidence.py glue RUNS ...   # the same with --sweep, one folder or more for each task
    python hf_elmix/docs/evidence.py reviews RUNS    # the same for: elmix study reviews --output_dir RUNS
    python hf_elmix/docs/evidence.py images RUNS     # the same for the study that IMAGES names
    python hf_elmix/docs/evidence.py                 # write the page's numbers and figures again

A study is on the page once its records have been taken over, which needs all of them. A test fails if the page or a
figure differs from what the records give.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from hf_elmix.analysis.comparison import compare, task_gains
from hf_elmix.analysis.formats import markdown_table
from hf_elmix.analysis.frames import runs_table
from hf_elmix.analysis.numbers import difference_text, gain_text, interval_text, number, p_equals
from hf_elmix.analysis.plots import plot_profile
from hf_elmix.analysis.profile import performance_profile
from hf_elmix.analysis.ranks import conover, friedman, wins
from hf_elmix.analysis.results import read_study
from hf_elmix.analysis.sections.sequential import interval_of
from hf_elmix.analysis.sequential import Rules, looks, verdicts
from hf_elmix.losses.registry import LOSS_SETS
from hf_elmix.plotting import drawn_name, method_label
from hf_elmix.reviews.protocol import ARCHITECTURES, LOSSES
from hf_elmix.study.spec import RunKey, RunRecord, Select
from hf_elmix.study.store import Store
from hf_elmix.tables.data import read_tables
from hf_elmix.tables.protocol import LEARNING_RATES

DOCS = Path(__file__).parent
STUDIES = ("tables", "uci121", "glue", "text", "reviews", "images")
RECORDS = {study: DOCS / "evidence" / f"{study}.parquet" for study in STUDIES}
PAGE, README = DOCS / "pages" / "does_it_work.md", DOCS.parents[1] / "README.md"
FIGURES = DOCS / "pages" / "figures"

SIX = LOSS_SETS["table4"]
RESCALED = "ce-rescaled:0-0.5"
MODELS = {"linear": "Linear classifier", "hidden": "One hidden layer"}
COMPARED = Rules("ce", ("0-0.5", "focal:gamma=2"))  # of the comparisons on text
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


# What may predict which tables gain, with a name for it.
PROPERTIES = {
    "rows": "training rows", "features": "features", "classes": "classes", "largest": "share of the largest class, %",
    "accuracy": "test accuracy of CE, linear, %",
}  # fmt: skip

# The paper's Table 3: test accuracy with its standard deviation over eight seeds, of each method by architecture.
PAPER_REVIEWS = {
    "ce": [(61.08, 0.83), (60.46, 1.50), (60.07, 1.34), (63.26, 0.54), (63.14, 0.81)],
    "0": [(60.81, 1.30), (61.52, 1.19), (61.12, 1.18), (63.20, 0.68), (63.79, 1.20)],
    "0,0.5": [(60.95, 1.32), (61.52, 1.19), (61.12, 1.18), (63.20, 0.68), (63.79, 1.20)],
    "0-0.5": [(61.57, 1.20), (61.36, 1.30), (61.27, 1.15), (63.46, 0.45), (63.77, 0.71)],
}

# The paper's Table 1: ResNet20 on the whole of CIFAR-100, 240 epochs, four seeds.
PAPER_IMAGES = {"ce": "68.25 ± 0.53", "0": "68.58 ± 0.08", "0,0.5": "68.58 ± 0.08", "0-0.5": "68.48 ± 0.14"}
IMAGES = (
    "elmix study images --dataset_name uoft-cs/cifar100 --models resnet20 --num_train_epochs 30 --seeds 0 1 2 --bf16 "
    "--use_cpu --output_dir runs"
)

ON_TEXT = ("ce", "0", "0,0.5", "0-0.5", RESCALED, "focal:gamma=2")

REVIEWS = "elmix study reviews --data womens-clothing --precision bf16 --output_dir runs"

FURTHER = {
    "glue": "BERT-tiny on seven tasks of GLUE",
    "reviews": "five LSTMs on reviews",
    "images": "ResNet20 on a part of CIFAR-100",
}


def take_over(study: str, *folders: Path) -> pd.DataFrame:
    """The records of a study as a table: of text and tables from one or more folders, of the others from one."""
    if study == "text":
        return pd.concat([comparison(folder) for folder in folders], ignore_index=True)
    if study == "glue":
        table = pd.concat([candidates(folder) for folder in folders], ignore_index=True)
        runs, methods = (table.groupby(by)["method"] for by in (["task", "seed"], "task"))
        return table[runs.transform("size") == methods.transform("nunique")]  # whole seeds only
    if study == "tables":
        parts = [compact(folder / model).assign(model=model) for folder in folders for model in MODELS]
        return pd.concat(parts, ignore_index=True).astype(
            dict.fromkeys(("task", "method", "status", "model"), "category")
        )
    (runs,) = folders
    return properties(runs) if study == "uci121" else compact(runs)


def properties(folder: Path) -> pd.DataFrame:
    """One row for each table of a folder: the number of its training rows, features and classes, and their balance."""
    rows = []
    for table in read_tables(str(folder)):
        labels, features = table.labels["train"], table.features["train"]
        largest = 100 * np.bincount(labels).max() / len(labels)
        rows.append((table.name, *features.shape, table.classes, largest))
    return pd.DataFrame(rows, columns=["task", "rows", "features", "classes", "largest"])


def compact(folder: Path) -> pd.DataFrame:
    """One row for each run, candidates of a sweep included: status, cost, and both accuracies at its best epoch."""
    store = Store(folder)
    records, asked = {record.key: record for record in store.records()}, list(store.asked())
    if missing := [key for key in asked if key not in records] or not asked:
        found = f"{len(asked) - len(missing)} of {len(asked)}" if asked else "none"
        raise SystemExit(f"Expected the records of a whole study in {folder}, but got {found}. Continue the study.")
    rows = []
    for key in asked:  # of equal candidates, the first asked for is chosen
        record, done = records[key], records[key].status == "done"
        choice, score = (SELECT.choice(record.scores), record.score) if done else (None, None)
        rows.append((key.task, key.method, key.seed, record.status, choice, score, record.cost["seconds"]))
    table = pd.DataFrame(rows, columns=["task", "method", "seed", "status", "validation", "test", "seconds"])
    return table.astype({"task": "category", "method": "category", "status": "category"})


def comparison(folder: Path) -> pd.DataFrame:
    """One row for each run of a comparison with a score: the command, task, model, method, seed and score."""
    store, results = Store(folder), read_study(Store(folder))
    if results.rules != COMPARED:
        raise SystemExit(f"Expected a comparison of {', '.join(COMPARED.methods)} with ce in {folder}.")
    model = next(iter(store.records())).settings["model"].rpartition("/")[2]
    scores = results.scores.stack().rename("score").reset_index()
    return scores.assign(command=command_of(store), model=model)[
        ["command", "task", "model", "method", "seed", "score"]
    ]


def candidates(folder: Path) -> pd.DataFrame:
    """One row for each run of a comparison with a sweep: the command, the score, and how many classes it predicts."""
    store, rows = Store(folder), []
    for record in store.records():
        key, seconds = record.key, record.cost["seconds"]
        classes = record.scores["predicted_classes"]["last"] if record.status == "done" else None
        rows.append((key.task, key.method, key.seed, record.status, record.score, record.score, classes, seconds))
    names = ["task", "method", "seed", "status", "validation", "test", "classes", "seconds"]
    return pd.DataFrame(rows, columns=names).assign(command=command_of(store))


def command_of(store: Store) -> str:
    """The command with which a comparison was begun, without what changes no result."""
    return re.sub(r" --(output_dir|workers|executor|max_seeds) \S+", "", store.declaration()["commands"][0])


def scores_of(table: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy by block (task, seed) and method, at the candidate with the best validation accuracy."""
    records = []
    for row in table.itertuples():
        found = {"validation_accuracy": row.validation, "test_accuracy": row.test}
        scores = {name: {"last": x, "best": x, "epochs": [x], "steps": [1]} for name, x in found.items()}
        key, settings = RunKey(row.task, row.method, row.seed), {"select": SELECT.to_settings()}
        records.append(RunRecord(key, row.status, scores, [], settings, {}, {}))
    return runs_table(records).pivot(index=["task", "seed"], columns="method", values="score")


def percent_of(study: str, table: pd.DataFrame) -> pd.DataFrame:
    """Accuracy in percent by block and method: of tasks of GLUE as means over seeds, of others by task and seed.

    Images have no validation rows to choose on.
    """
    if study == "glue":
        return by_table(scores_of(table))
    if study == "images":
        return 100 * table.pivot(index=["task", "seed"], columns="method", values="test").astype(float)
    return 100 * scores_of(table)


def of_model(table: pd.DataFrame, model: str, rates: Sequence[float] = LEARNING_RATES) -> pd.DataFrame:
    """The scores of the study of tables with a model and a choice of learning rates, methods in the paper's order."""
    runs = with_rates(table, model)
    return scores_of(runs[runs["rate"].isin(rates)])[[*SIX, RESCALED]]


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
        f"scaled to the same gradient area gains {difference_text(against_ce.loc[RESCALED], 1)}; the difference "
        f"between the two is {difference_text(against_rescaled.loc['0-0.5'], 1)}. The ranks of the six methods differ "
        f"(Friedman {p_equals(test.pvalue)}); those that differ from CE (Conover, p < 0.05): "
        f"{', '.join(apart) or 'none'}."
    )


def with_rates(table: pd.DataFrame, model: str) -> pd.DataFrame:
    """The runs of the study of tables with a model, with the loss and the learning rate of each."""
    return with_rate(table[table["model"] == model])


def with_rate(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs with the loss and the learning rate of each."""
    names = runs["method"].astype(str)
    rates = names.str.extract(r"learning_rate=([^,\]]+)")[0].astype(float)
    return runs.assign(loss=names.str.partition(" [")[0], rate=rates)


def rates_table(table: pd.DataFrame, model: str) -> str:
    """Each method's gain over CE where both choose among all learning rates, and what it chooses, in Markdown."""
    runs = with_rates(table, model)
    valid = runs.dropna(subset="validation")
    chosen = valid.loc[valid.groupby(["task", "loss", "seed"], observed=True)["validation"].idxmax()]
    shares = pd.crosstab(chosen["loss"], chosen["rate"], normalize="index")
    rates = sorted(runs["rate"].unique())
    means = by_table(of_model(table, model, rates))
    pairs = compare(means, "ce")
    rows = []
    for method in (*SIX, RESCALED):
        gain = "0" if method == "ce" else difference_text(pairs.loc[method], 1)
        rows.append([method_label(method), gain, *[f"{100 * shares.loc[method, rate]:.0f} %" for rate in rates]])
    header = ["", "points above CE", *[f"{rate:g}" for rate in rates]]
    apart = difference_text(compare(means, RESCALED).loc["0-0.5"], 1)
    return (
        f"**{MODELS[model]}**, {len(means)} tables:\n\n{markdown_table(header, rows)}\n"
        f"F = 0-0.5 minus rescaled CE: {apart}."
    )


def fixed_rates(table: pd.DataFrame) -> str:
    """The gain over CE of the mixed loss and of rescaled CE where all have the same learning rate, in Markdown."""
    rows: dict[float, list[str]] = {}
    for model in MODELS:
        for rate, runs in with_rates(table, model).groupby("rate"):
            means = by_table(runs.pivot(index=["task", "seed"], columns="loss", values="test"))
            pairs = compare(means, "ce")
            found = [difference_text(pairs.loc[name], 1) for name in ("0-0.5", RESCALED)]
            rows.setdefault(rate, []).extend([str(len(means)), number(means["ce"].mean(), 1), *found])
    columns = ["tables", "CE", "F = 0-0.5", "rescaled CE"]
    header = ["rate", *[f"{name}, {model}" for model in MODELS for name in columns]]
    return markdown_table(header, [[f"{rate:g}", *cells] for rate, cells in rows.items()])


def by_property(table: pd.DataFrame, sizes: pd.DataFrame) -> str:
    """Gains over CE on thirds of the tables by each of their properties, and rank correlations with it."""
    means = {model: by_table(of_model(table, model)).droplevel("seed") for model in MODELS}
    known = sizes.set_index("task").assign(accuracy=means["linear"]["ce"])
    gains = {(m, name): means[m][name] - means[m]["ce"] for name in ("0-0.5", RESCALED) for m in MODELS}
    rows = []
    for name, title in PROPERTIES.items():
        edges = np.unique(np.quantile(known[name], [0, 1 / 3, 2 / 3, 1]))
        third = pd.cut(known[name], edges, include_lowest=True)
        for place, tables in enumerate(third.cat.categories):
            part = known.index[third == tables]
            span = f"{number(edges[0], 0) + ' ' if not place else ''}to {number(edges[place + 1], 0)}"
            found = [_mean_gain(gain[part]) for gain in gains.values()]
            rows.append([title if not place else "", span, str(len(part)), *found])
    head = [f"{method}, {model}" for method in ("F = 0-0.5", "rescaled CE") for model in MODELS]
    correlations = [stats.spearmanr(gains[m, "0-0.5"], known[name]) for m in MODELS for name in PROPERTIES]
    largest = max(correlations, key=lambda found: abs(found.statistic))
    return (
        f"{markdown_table(['', '', 'tables', *head], rows)}\n"
        f"Of the {len(correlations)} rank correlations of these properties with the gain of F = 0-0.5 (Spearman), the "
        f"largest is {number(abs(largest.statistic))} ({p_equals(largest.pvalue)}, not corrected for their number)."
    )


def _mean_gain(gains: pd.Series) -> str:
    reach = stats.t.ppf(0.975, len(gains) - 1) * gains.sem()
    return f"{gain_text(gains.mean(), 1)} {interval_text(gains.mean() - reach, gains.mean() + reach, 1)}"


def caption(tables: dict[str, pd.DataFrame]) -> str:
    """What README.md says below the figure."""
    table = tables["tables"]
    pairs = {model: compare(by_table(of_model(table, model)), "ce") for model in MODELS}
    count, seeds = int(pairs["linear"].loc["0-0.5", "pairs"]), table["seed"].nunique()
    mixed, rescaled = ([difference_text(pairs[m].loc[name], 1) for m in MODELS] for name in ("0-0.5", RESCALED))
    said = [verdicts(looks(scores, COMPARED), COMPARED).loc["0-0.5"] for *_, scores in comparisons(tables["text"])]
    better = sum(row["verdict"] == "better" for row in said)
    wide = [name for name, row in overview_rows(tables) for found in row.values() if not np.isfinite(found["high"])]
    unknown = " Open circles: no interval yet." * bool(wide)
    decided = f"{better} {'shows' if better == 1 else 'show'}"
    text = (
        f"*Points of accuracy above cross entropy (CE), with 95 % intervals. On {count} UCI tables, {seeds} seeds "
        f"each, the mixed loss F = 0-0.5 gains {mixed[0]} with a linear classifier and {mixed[1]} with a hidden "
        f"layer. CE with learning rates scaled to the same gradient area (`{RESCALED}`) gains {rescaled[0]} and "
        f"{rescaled[1]}, so step size alone may explain it. {_further(tables)}Of {len(said)} comparisons on text, "
        f"{decided} a gain.{unknown} [Does it work?](hf_elmix/docs/pages/does_it_work.md)*"
    )
    return "\n".join(textwrap.wrap(text, 119, break_on_hyphens=False, break_long_words=False))


def _further(tables: dict[str, pd.DataFrame]) -> str:
    """A sentence for each of these studies that has been taken over, with a space behind it."""
    said = ""
    for study, title in FURTHER.items():
        if study in tables:
            gain = compare(percent_of(study, tables[study]), "ce").loc["0-0.5"]
            seeds = tables[study]["seed"].nunique()
            said += f"With {title} ({seeds} seeds) the mixed loss gains {difference_text(gain, 1)}. "
    return said


def figure(table: pd.DataFrame) -> Figure:
    """Difference of each method from CE with its interval, and the paper's, for both models."""
    drawn, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
    methods = [*SIX[1:4], RESCALED, SIX[5], SIX[4]]
    for ax, model in zip(axes, MODELS, strict=True):
        pairs = compare(by_table(of_model(table, model)), "ce").loc[methods]
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
    axes[1].legend(loc="upper left", fontsize=7, frameon=False, borderpad=0)
    return drawn


def overview_rows(tables: dict[str, pd.DataFrame]) -> list[tuple[str, dict[str, Any]]]:
    """A name for each study that has been taken over, and its differences from CE with their intervals, by method."""
    rows: list[tuple[str, dict[str, Any]]] = []
    for model, title in MODELS.items():
        pairs = compare(by_table(of_model(tables["tables"], model)), "ce")
        rows.append((f"UCI tables, {title.lower()}", {name: pairs.loc[name] for name in ("0-0.5", RESCALED)}))
    for name, model, scores in comparisons(tables["text"]):
        (found,) = (row for row in verdicts(looks(scores, COMPARED), COMPARED).itertuples() if row.Index == "0-0.5")
        rows.append((f"{name}, {model}", {"0-0.5": found._asdict()}))
    for study, title in FURTHER.items():
        if study in tables:
            pairs = compare(percent_of(study, tables[study]), "ce")
            rows.append((title, {name: pairs.loc[name] for name in ("0-0.5", RESCALED) if name in pairs.index}))
    return rows


def overview(tables: dict[str, pd.DataFrame]) -> Figure:
    """Difference of the mixed loss from CE in each study, and of CE with rescaled steps where it was trained."""
    rows = overview_rows(tables)
    drawn, ax = plt.subplots(figsize=(9, 0.8 + 0.32 * len(rows)), layout="constrained")
    shown = {
        "0-0.5": ("o", "#0072B2", 0.0, "mixed loss, F = 0-0.5"),
        RESCALED: ("s", "#E69F00", 0.25, "CE, learning rates scaled to the same gradient area"),
    }
    for method, (marker, colour, below, label) in shown.items():
        found = [(place + below, row[method]) for place, (_, row) in enumerate(rows) if method in row]
        for place, row in found:
            known = np.isfinite(row["high"])  # an open marker has no interval yet
            reach = [[row["difference"] - row["low"]], [row["high"] - row["difference"]]] if known else None
            fill = colour if known else "white"
            ax.errorbar(row["difference"], place, xerr=reach, fmt=marker, color=colour, mfc=fill, markersize=5)
        ax.plot([], [], marker, color=colour, label=label)
    ax.axvline(0, color="#000000", lw=1)
    ax.set_yticks(range(len(rows)), [name for name, _ in rows])
    ax.invert_yaxis()
    ax.set_xscale("symlog", linthresh=1)
    ax.set_xticks(ticks := [-5, -2, -1, -0.5, 0, 0.5, 1, 2, 5], [f"{tick:g}".replace("-", "−") for tick in ticks])
    ax.minorticks_off()
    ax.set_xlabel("points of accuracy above CE")
    ax.spines[["top", "right"]].set_visible(False)
    drawn.legend(loc="outside upper right", ncols=2, fontsize=9, frameon=False)
    return drawn


def table3(scores: pd.DataFrame) -> str:
    """The paper's Table 3 beside ours, in Markdown, with paired differences from CE."""
    percent = 100 * scores
    gains = task_gains(percent, "ce")
    rows = []
    for place, task in enumerate(ARCHITECTURES):
        for method in LOSSES:
            own, (mean, sd) = percent.loc[task][method], PAPER_REVIEWS[method][place]
            paper_gain = gain_text(mean - PAPER_REVIEWS["ce"][place][0], 1)
            gain = ["0", "0"] if method == "ce" else [paper_gain, difference_text(gains.loc[task, method], 1)]
            ours = f"{number(own.mean())} ± {number(own.std())}"
            rows.append([task, method_label(method), f"{number(mean)} ± {number(sd)}", ours, *gain])
    header = ["", "", "accuracy (paper)", "accuracy", "points above CE (paper)", "points above CE"]
    return markdown_table(header, rows)


def comparisons(table: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """The rows and the model of each comparison on text, and its scores in percent, by seed and method."""
    for (command, task, model), found in table.groupby(["command", "task", "model"], sort=False, observed=True):
        first = re.search(r"--max_train_samples (\d+)", command)
        scores = 100 * found.pivot(index="seed", columns="method", values="score")
        yield f"{task}, first {int(first[1]):,}" if first else task, model, scores


def text_section(table: pd.DataFrame) -> str:
    """The section on text: what each comparison found, and what four seeds fixed in advance would have said."""
    rows = []
    for name, model, scores in comparisons(table):
        four = compare(scores.head(4).set_index(pd.MultiIndex.from_product([[name], scores.index[:4]])), "ce")
        for row in verdicts(looks(scores, COMPARED), COMPARED).itertuples():
            early = four.loc[str(row.Index)]
            said = "better" if early["low"] > 0 else "worse" if early["high"] < 0 else "no difference shown"
            fixed = f"{difference_text(early, 1)}: {said}" if early["pairs"] == 4 else ""
            gain = f"{gain_text(row.difference, 1)} {interval_of(row.low, row.high) or '(no interval yet)'}"
            level = [str(row.seeds), number(scores["ce"].mean()), gain]
            rows.append([name, model, method_label(str(row.Index)), *level, str(row.verdict), fixed])
    header = ["rows", "model", "", "seeds", "CE", "points above CE", "verdict", "fixed study of four seeds"]
    commands = "\n".join(table["command"].unique())
    return f"{markdown_table(header, rows)}\n```text\n{commands}\n```"


def glue_section(table: pd.DataFrame) -> str:
    """The section on seven tasks of GLUE: the gains on each of them, and over the tasks."""
    percent = 100 * scores_of(table)[list(ON_TEXT)]
    gains, counts = task_gains(percent, "ce"), percent.groupby("task", sort=False).size()
    rows = [
        [
            *(task, str(count), number(percent.loc[task]["ce"].mean())),
            *(gain_text(gains.loc[(task, method), "difference"], 1) for method in ON_TEXT[1:]),
        ]
        for task, count in counts.items()
    ]
    means = by_table(percent / 100)
    over = compare(means, "ce")
    last = [difference_text(over.loc[method], 1) for method in ON_TEXT[1:]]
    rows.append(["mean", "", number(means["ce"].mean()), *last])
    apart = difference_text(compare(means, RESCALED).loc["0-0.5"], 1)
    runs = with_rate(table)
    chosen = runs.loc[runs.dropna(subset="test").groupby(["task", "loss", "seed"])["test"].idxmax()]
    share = pd.crosstab(chosen["loss"], chosen["rate"], normalize="index").reindex(
        columns=sorted(runs["rate"].unique())
    )
    shares = markdown_table(
        ["", *[f"{rate:g}" for rate in share]],
        [[method_label(method), *[f"{100 * x:.0f} %" for x in share.loc[method].fillna(0)]] for method in ON_TEXT],
    )
    constant = (chosen["classes"] == 1).groupby(chosen["loss"]).sum()
    stuck = "; ".join(f"{method_label(method)}: {constant[method]}" for method in ON_TEXT)
    where = ", ".join(sorted(set(chosen.loc[chosen["classes"] == 1, "task"]))) or "none"
    tried = runs.groupby("rate")["task"].agg(lambda tasks: sorted(set(tasks)))
    only = "".join(
        f" {rate:g} was tried on {', '.join(tasks)} only." for rate, tasks in tried.items() if len(tasks) < len(counts)
    )
    named = [f"--dataset_config_name {task}" for task in counts.index]
    commands = "\n".join(
        dict.fromkeys(
            re.sub("|".join(named), "--dataset_config_name TASK", text) for text in table["command"].unique()
        )
    )
    header = ["", "seeds", "CE", *map(method_label, ON_TEXT[1:])]
    return (
        "**The paper's seven tasks of GLUE**, with BERT-tiny (2 layers, 128 wide) for three epochs. For every method "
        "alike, the learning rate is the best on the dev set, which is scored, too: compare methods, not levels. The "
        "table gives the accuracy of CE in percent and points above it, means of the seeds; the last row is the mean "
        "of the tasks, with 95 % intervals over them.\n\n"
        f"{markdown_table(header, rows)}\n"
        f"F = 0-0.5 minus rescaled CE, mean of the tasks: {apart}. Of {len(percent)} chosen runs each, so many always "
        f"predict the same class: {stuck} (tasks: {where}). {cost(table)}{only} The share of choices that fall on "
        "each learning rate:\n\n"
        f"{shares}\n"
        "![Performance profile on tasks of GLUE](figures/glue.png)\n\n"
        f"*The paper's Fig. 2 from these runs: the share of the {len(percent)} pairs of a task and a seed in which a "
        f"method reaches a share τ of the best score; the higher, the better.*\n\n```text\n{commands}\n```"
    )


def glue_profile(table: pd.DataFrame) -> Figure:
    """The paper's Fig. 2: the performance profile of all methods over tasks and seeds."""
    drawn, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
    plot_profile(performance_profile(scores_of(table)[list(ON_TEXT)]), ax)
    return drawn


def reviews_section(table: pd.DataFrame) -> str:
    """The section on reviews, or nothing before there are records."""
    scores = scores_of(table)[list(LOSSES)]
    pairs = compare(100 * scores, "ce")
    found = ", ".join(f"{method_label(method)} {difference_text(pairs.loc[method], 1)}" for method in LOSSES[1:])
    count, done = scores.index.get_level_values("seed").nunique(), int(scores.notna().all(axis=1).sum())
    return (
        "## Reviews\n\n"
        "The paper's five LSTM classifiers on its reviews ([which settings are "
        "ours](paper.md#the-study-of-reviews)): test accuracy in percent, mean ± standard deviation over "
        f"{count} seeds.\n\n```text\n{REVIEWS}\n```\n\n"
        f"{table3(scores)}\n"
        f"Points above CE, mean of the five classifiers with 95 % intervals over seeds ({done} of {len(scores)} "
        f"blocks): {found}. The reviews and their division are always the same, so an interval says nothing of other "
        f"reviews, and no run tells a better loss from a larger step here. {cost(table)}"
    )


def cost(table: pd.DataFrame) -> str:
    """What the runs of a study took; where they shared a part of training, it is counted once."""
    return (
        f"The {len(table):,} runs took {number(table['seconds'].sum() / 3600, 1)} hours of one core beside other work."
    )


def images_section(table: pd.DataFrame) -> str:
    """The section on images: the paper's Table 1 beside ours, with paired differences from CE."""
    scores = percent_of("images", table)
    pairs, seeds = compare(scores, "ce"), scores.index.get_level_values("seed").nunique()
    rows = [
        [
            *(method_label(method), paper, f"{number(scores[method].mean())} ± {number(scores[method].std())}"),
            "0" if method == "ce" else difference_text(pairs.loc[method], 1),
        ]
        for method, paper in PAPER_IMAGES.items()
    ]
    return (
        "## Images\n\n"
        "One row of the paper's Table 1, **reduced**: ResNet20 on 20,000 training and 5,000 test images of CIFAR-100, "
        "30 epochs instead of 240, in bfloat16 ([which settings are ours](paper.md#the-studies-of-images)). "
        f"Accuracies in percent, mean ± standard deviation over {seeds} seeds, are lower than on the whole data set "
        f"and not comparable with the paper's.\n\n```text\n{IMAGES}\n```\n\n"
        f"{markdown_table(['', 'accuracy (paper, whole)', 'accuracy', 'points above CE'], rows)}\n"
        "Intervals are 95 % t intervals over seeds, of which there are few; no run tells a better loss from a larger "
        f"step here. {cost(table)}"
    )


def remade(tables: dict[str, pd.DataFrame]) -> dict[Path, str]:
    """The texts of the page and of README.md, with the parts between their marks made again."""
    page = PAGE.read_text(encoding="utf-8")
    scores = {model: of_model(tables["tables"], model) for model in MODELS}
    parts = [f"{table4(scores[model], model)}\n{sentences(scores[model], model)}" for model in MODELS]
    common = with_rate(tables["tables"])["rate"].isin(LEARNING_RATES)
    page = _with(page, "tables", "\n\n".join([*parts, cost(tables["tables"][common])]))
    rates = [*[rates_table(tables["tables"], model) for model in MODELS], fixed_rates(tables["tables"])]
    page = _with(page, "rates", "\n\n".join([*rates, cost(tables["tables"][~common])]))
    page = _with(page, "properties", by_property(tables["tables"], tables["uci121"]))
    page = _with(page, "text", text_section(tables["text"]))
    if "glue" in tables:
        page = _with(page, "glue", glue_section(tables["glue"]))
    if "reviews" in tables:
        page = _with(page, "reviews", reviews_section(tables["reviews"]))
    if "images" in tables:
        page = _with(page, "images", images_section(tables["images"]))
    return {PAGE: page, README: _with(README.read_text(encoding="utf-8"), "tables", caption(tables))}


def _with(text: str, study: str, made: str) -> str:
    """A text with a part between its marks replaced."""
    before, mark, rest = text.partition(f"<!-- made: {study} -->\n")
    return f"{before}{mark}\n{made}\n\n<!-- end -->{rest.partition('<!-- end -->')[2]}"


def figures(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figures of the page by name."""
    drawn = {"overview": overview(tables), "tables": figure(tables["tables"])}
    return drawn | ({"glue": glue_profile(tables["glue"])} if "glue" in tables else {})


def taken_over() -> dict[str, pd.DataFrame]:
    """The records of each study that has been taken over."""
    return {study: pd.read_parquet(path) for study, path in RECORDS.items() if path.exists()}


def main(words: list[str]) -> None:
    """Take over records if a study and its folder are given; then write the texts and the figure."""
    if words:
        study, *folders = words
        take_over(study, *map(Path, folders)).to_parquet(RECORDS[study], compression="zstd", index=False)
    tables = taken_over()
    for path, text in remade(tables).items():
        path.write_text(text, encoding="utf-8")
    for name, drawn in figures(tables).items():
        drawn.savefig(FIGURES / f"{name}.png", dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    main(sys.argv[1:])
