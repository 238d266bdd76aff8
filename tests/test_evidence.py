"""The page *Does it work?* and README.md say what the records give."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pictures import same_picture
from scipy import stats

from hf_elmix.analysis.sequential import Rules
from hf_elmix.reviews.protocol import ARCHITECTURES, LOSSES, SEEDS
from hf_elmix.study.spec import RunKey, RunRecord
from hf_elmix.study.store import Store

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def evidence():
    spec = importlib.util.spec_from_file_location("evidence", ROOT / "hf_elmix" / "docs" / "evidence.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def table(evidence) -> pd.DataFrame:
    return evidence.taken_over()["tables"]


def test_the_texts_say_what_the_records_give(evidence):
    for path, text in evidence.remade(evidence.taken_over()).items():
        assert path.read_text() == text, f"{path.name}: type python hf_elmix/docs/evidence.py"


def test_the_figures_show_what_the_records_give(evidence, tmp_path):
    tables = evidence.taken_over()
    for name, figure in evidence.figures(tables).items():
        figure.savefig(tmp_path / f"{name}.png", dpi=150)
        # Half a point more for all methods changes a picture by 0.005 on average.
        assert same_picture(tmp_path / f"{name}.png", evidence.FIGURES / f"{name}.png", within=0.0005), name


def test_the_choice_of_a_schedule_quotes_the_page():
    pages = ROOT / "hf_elmix" / "docs" / "pages"
    quoted = re.findall(r"[+−][\d.]+ \[[^]]+\]", (pages / "losses.md").read_text())
    assert len(quoted) == 4
    said = (pages / "does_it_work.md").read_text()
    assert [text for text in quoted if text not in said] == []


def test_the_numbers_are_those_of_plain_pandas(evidence, table):
    """Chosen, averaged and compared again with nothing of this package."""
    for model in evidence.MODELS:
        runs = table[(table["model"] == model) & (table["status"] == "done")].copy()
        runs["name"] = runs["method"].astype(str).str.partition(" [")[0]
        runs = runs[runs["method"].astype(str).str.contains(r"=0\.01\]|=0\.005\]|=0\.001\]")]
        best = runs.sort_values("validation", ascending=False, kind="stable").groupby(
            ["task", "name", "seed"], observed=True
        )
        means = best["test"].first().groupby(["task", "name"]).mean().unstack("name") * 100
        found = evidence.by_table(evidence.of_model(table, model)).droplevel("seed")
        same = means.loc[found.index]
        np.testing.assert_allclose(found, same[found.columns], rtol=0, atol=1e-9)


def cells_of(markdown: str) -> list[list[str]]:
    """The cells of the tables in a text, without their headers."""
    lines = [line for line in markdown.splitlines() if line.startswith("|") and not line.startswith("|--")]
    return [[cell.strip().replace("\\", "") for cell in line.strip("|").split("|")] for line in lines][1:]


def test_the_rates_are_those_of_plain_pandas(evidence, table):
    for model in evidence.MODELS:
        runs = table[table["model"] == model].copy()
        name, _, rate = (
            runs["method"].astype(str).str.removesuffix("]").str.partition(" [learning_rate=")[k] for k in range(3)
        )
        runs["loss"], runs["rate"] = name, rate.astype(float)
        order = [0.01, 0.005, 0.001, 0.03, 0.1, 0.3, 1.0]
        scores = runs.pivot(index=["task", "seed", "loss"], columns="rate", values="validation")[order]
        chosen = scores.dropna(how="all").idxmax(axis=1)
        tests = 100 * runs.pivot(index=["task", "seed", "loss"], columns="rate", values="test")
        rows = {row[0]: row[1:] for row in cells_of(evidence.rates_table(table, model))}
        fixed = {row[0]: row[1:] for row in cells_of(evidence.fixed_rates(table))}
        for place, rate in enumerate(sorted(order)):
            for loss, label in (("ce", "CE"), ("0-0.5", "F = 0-0.5 (ramp)"), ("el", "EL")):
                share = (chosen.xs(loss, level="loss") == rate).mean()
                assert rows[label][place + 1] == f"{100 * share:.0f} %"
            gain = gain_of(tests[rate].unstack("loss"))
            assert fixed[f"{rate:g}"][2 + 4 * list(evidence.MODELS).index(model)].startswith(f"{gain} [")
        best = pd.Series([tests.loc[key, rate] for key, rate in chosen.items()], chosen.index)
        assert rows["F = 0-0.5 (ramp)"][0].startswith(f"{gain_of(best.unstack('loss'))} [")


def gain_of(scores: pd.DataFrame) -> str:
    """The mean gain of F = 0-0.5 over CE, on tables on which all methods have all scores."""
    means = scores.groupby("task", observed=True).agg(lambda column: column.mean(skipna=False)).dropna()
    return f"{(means['0-0.5'] - means['ce']).mean():+.2f}".replace("-", "−")


def test_each_third_of_the_tables_has_its_own_gain(evidence, table):
    sizes = evidence.taken_over()["uci121"]
    rows = cells_of(evidence.by_property(table, sizes))
    assert [row[0] for row in rows if row[0]] == list(evidence.PROPERTIES.values())
    means = evidence.by_table(evidence.of_model(table, "hidden")).droplevel("seed")
    small = sizes[sizes["rows"] <= np.quantile(sizes["rows"], 1 / 3)]["task"]
    assert rows[0][2] == str(len(small)) == "40"
    gains = (means["ce-rescaled:0-0.5"] - means["ce"])[small]
    low, high = stats.t.interval(0.95, len(gains) - 1, gains.mean(), stats.sem(gains))
    assert rows[0][6] == f"{gains.mean():+.2f} [{low:.2f}, {high:.2f}]".replace("-", "−")
    for name in evidence.PROPERTIES:
        first = next(k for k, row in enumerate(rows) if row[0] == evidence.PROPERTIES[name])
        last = next((k for k in range(first + 1, len(rows)) if rows[k][0]), len(rows))
        assert sum(int(row[2]) for row in rows[first:last]) == 120


def test_the_sizes_of_tables(evidence, tmp_path):
    splits = ["train"] * 4 + ["validation", "test"]
    data = pd.DataFrame({"x": range(6), "y": range(6), "label": list("aaabab"), "split": splits})
    data.to_csv(tmp_path / "one.csv", index=False)
    (row,) = evidence.take_over("uci121", tmp_path).itertuples(index=False)
    assert tuple(row) == ("one", 4, 2, 2, 75.0)


def test_records_are_taken_over_as_they_are(evidence, tmp_path):
    scores = {
        "validation_accuracy": {"last": 0.2, "best": 0.5, "epochs": [0.5, 0.5, 0.2], "steps": [1, 2, 3]},
        "test_accuracy": {"last": 0.9, "best": 0.9, "epochs": [0.3, 0.4, 0.9], "steps": [1, 2, 3]},
    }
    settings = {"select": evidence.SELECT.to_settings()}
    cost = {"seconds": 0.0, "steps_trained": 3, "steps_inherited": 0}
    for model in evidence.MODELS:
        grid = {"tasks": ["iris"], "methods": ["ce [learning_rate=0.01]"], "seeds": [0, 1]}
        Store(tmp_path / model).declare({"grids": [grid], "methods": {}, "settings": {}, "commands": []})
        for seed, status in enumerate(("done", "diverged")):
            key = RunKey("iris", "ce [learning_rate=0.01]", seed)
            Store(tmp_path / model).write(RunRecord(key, status, scores, [], settings, {}, cost))
    table = evidence.take_over("tables", tmp_path)
    assert table["validation"].tolist()[::2] == [0.5, 0.5]
    assert table["test"].tolist()[::2] == [0.3, 0.3]
    assert table["test"].isna().tolist()[1::2] == [True, True]
    twice = evidence.take_over("tables", tmp_path, tmp_path)
    assert (len(twice), twice["model"].tolist()) == (8, 2 * table["model"].tolist())
    assert twice.index.is_unique


def test_the_tasks_of_glue_are_those_of_scipy(evidence, tmp_path):
    """Two tasks with two seeds: at the rate that is chosen, a loss is 0, 1, … points above CE, on the second twice."""
    methods = [f"{loss} [learning_rate={rate}]" for loss in evidence.ON_TEXT for rate in (0.1, 0.2)]
    for task, folder in (("rte", tmp_path / "one"), ("cola", tmp_path / "two")):
        store = Store(folder)
        command = f"elmix compare --dataset_config_name {task} --max_seeds 2 --output_dir x --workers 1"
        grid = {"tasks": [task], "methods": methods, "seeds": [0, 1]}
        store.declare({"grids": [grid], "methods": {}, "settings": {}, "commands": [command]})
        for place, method in enumerate(methods):
            for seed in (0, 1):
                gain = (1 + (task == "cola")) * (place // 2) / 100
                value = 0.6 + seed / 50 + gain - (0.2 if place % 2 else 0)  # 0.1 is the better rate
                scores = {"accuracy": {"last": value}, "predicted_classes": {"last": 1.0 if place == 2 else 2.0}}
                scores = {
                    name: {**x, "best": x["last"], "epochs": [x["last"]], "steps": [1]} for name, x in scores.items()
                }
                settings = {"select": {"metric": "accuracy", "epoch": "last"}}
                cost = {"seconds": 90.0, "steps_trained": 1, "steps_inherited": 0}
                store.write(RunRecord(RunKey(task, method, seed), "done", scores, [], settings, {}, cost))
        store.write(RunRecord(RunKey(task, methods[0], 2), "done", scores, [], settings, {}, cost))  # the only one
    table = evidence.take_over("glue", tmp_path / "one", tmp_path / "two")
    said = evidence.glue_section(table)
    rows = cells_of(said)
    assert [row[:3] for row in rows[:3]] == [["cola", "2", "61.00"], ["rte", "2", "61.00"], ["mean", "", "61.00"]]
    assert [row[5].partition(" ")[0] for row in rows[:3]] == ["+6.00", "+3.00", "+4.50"]
    low, high = stats.t.interval(0.95, 1, 4.5, stats.sem([3, 6]))
    assert rows[2][5] == f"+4.50 [{low:.2f}, {high:.2f}]".replace("-", "−")
    assert "Of 4 chosen runs each, so many always predict the same class: CE: 0; F = 0 (constant): 4; " in said
    assert "(tasks: cola, rte)" in said
    assert "The 48 runs took 1.2 hours" in said
    assert rows[3:5] == [["", "0.1", "0.2"], ["CE", "100 %", "0 %"]]
    assert said.splitlines()[-3:] == ["```text", "elmix compare --dataset_config_name TASK", "```"]
    page = evidence.remade({**evidence.taken_over(), "glue": table})[evidence.PAGE]
    assert said in page
    tables = {**evidence.taken_over(), "glue": table}
    assert evidence.figures(tables)["glue"].axes[0].get_title() == "Performance profile over 4 blocks"
    found = dict(evidence.overview_rows(tables))[evidence.FURTHER["glue"]]
    assert found["0-0.5"]["difference"] == pytest.approx(4.5)
    assert found[evidence.RESCALED]["difference"] == pytest.approx(6)


@pytest.fixture(scope="module")
def reviews(evidence, tmp_path_factory) -> Path:
    """A finished study of reviews, with accuracies drawn at random."""
    folder, rng = tmp_path_factory.mktemp("reviews"), np.random.default_rng(0)
    store = Store(folder)
    grid = {"tasks": list(ARCHITECTURES), "methods": list(LOSSES), "seeds": list(SEEDS)}
    store.declare({"grids": [grid], "methods": {}, "settings": {}, "commands": []})
    for key in [RunKey(task, loss, seed) for task in ARCHITECTURES for loss in LOSSES for seed in SEEDS]:
        epochs = {name: rng.uniform(0.6, 0.65, size=3).tolist() for name in ("validation_accuracy", "test_accuracy")}
        scores = {name: {"last": x[-1], "best": max(x), "epochs": x, "steps": [1, 2, 3]} for name, x in epochs.items()}
        settings = {"select": evidence.SELECT.to_settings()}
        cost = {"seconds": 90.0, "steps_trained": 3, "steps_inherited": 0}
        store.write(RunRecord(key, "done", scores, [], settings, {}, cost))
    return folder


def test_table_3_is_that_of_the_records(evidence, reviews):
    """Means, deviations and differences, computed again with plain pandas."""
    lines = evidence.reviews_section(evidence.take_over("reviews", reviews)).splitlines()
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| lstm-")]
    chosen = {}
    for record in Store(reviews).records():
        best = int(np.argmax(record.scores["validation_accuracy"]["epochs"]))
        chosen[record.key.task, record.key.method, record.key.seed] = record.scores["test_accuracy"]["epochs"][best]
    scores = 100 * pd.Series(chosen).unstack(1)
    assert len(found) == 20
    for place, (task, _, paper, ours, paper_gain, gain) in enumerate(found):
        method = LOSSES[place % 4]
        own = scores.loc[task]
        assert ours == f"{own[method].mean():.2f} ± {own[method].std():.2f}"
        assert paper.startswith(f"{evidence.PAPER_REVIEWS[method][place // 4][0]:.2f} ± ")
        if method != "ce":
            assert float(gain.split(" ")[0].replace("−", "-")) == pytest.approx(
                (own[method] - own["ce"]).mean(), abs=0.005
            )
            assert paper_gain[0] in "+−"
    ramp = (scores["0-0.5"] - scores["ce"]).mean()
    assert f"F = 0-0.5 (ramp) {ramp:+.2f} [".replace("-0.", "−0.").replace("F = 0−0.5", "F = 0-0.5") in lines[-1]
    assert "The 160 runs took 4.0 hours of one core" in lines[-1]


def test_table_3_of_the_paper_is_typed_as_it_is_printed(evidence):
    means = {method: [mean for mean, _ in cells] for method, cells in evidence.PAPER_REVIEWS.items()}
    # "In all cases, except for the forth architecture CE is outperformed by all three mixing protocols", but for the
    # first, in which the table contradicts the text.
    beaten = {k for k in range(5) if all(means[method][k] > means["ce"][k] for method in LOSSES[1:])}
    assert beaten == {1, 2, 4}
    assert all(means["0-0.5"][k] > means["ce"][k] for k in range(5))


def test_every_study_has_a_row_in_the_overview(evidence, reviews):
    tables = {**evidence.taken_over(), "reviews": evidence.take_over("reviews", reviews)}
    rows = dict(evidence.overview_rows(tables))
    comparisons = tables["text"].groupby(["command", "task", "model"]).ngroups
    assert len(rows) == len(evidence.MODELS) + comparisons + len(evidence.FURTHER.keys() & tables.keys())
    scores = evidence.scores_of(tables["reviews"])
    gain = 100 * (scores["0-0.5"] - scores["ce"]).mean()
    assert rows[evidence.FURTHER["reviews"]]["0-0.5"]["difference"] == pytest.approx(gain)
    linear = evidence.by_table(evidence.of_model(tables["tables"], "linear"))
    expected = stats.ttest_rel(linear["0-0.5"], linear["ce"]).confidence_interval(0.95)
    found = rows["UCI tables, linear classifier"]["0-0.5"]
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))


def test_reviews_come_onto_the_page_with_their_records(evidence, reviews, table):
    page = evidence.remade({**evidence.taken_over(), "reviews": evidence.take_over("reviews", reviews)})[evidence.PAGE]
    assert page.index("## Tables") < page.index("## Reviews") < page.index("## What this does not show")
    assert page.count("<!-- end -->") == page.count("<!-- made: ") == 7


@pytest.fixture
def compared(tmp_path) -> Path:
    """A comparison of six seeds, in which the mixed loss is one point above CE with an sd of a tenth, focal at CE."""
    store, gains = Store(tmp_path / "compared"), {"ce": 0.0, "0-0.5": 0.01, "focal:gamma=2": 0.0}
    command = "elmix compare --train_file mine.csv --max_train_samples 9000 --output_dir compared --workers 1"
    grid = {"tasks": ["mine"], "methods": list(gains), "seeds": list(range(6))}
    store.declare({"grids": [grid], "methods": {}, "settings": {}, "commands": [command]})
    for key in [RunKey("mine", method, seed) for method in gains for seed in range(6)]:
        noise = {"ce": 0.0, "0-0.5": 0.001, "focal:gamma=2": 0.02}[key.method] * (-1) ** key.seed
        score = 0.6 + key.seed / 50 + gains[key.method] + noise
        scores = {"accuracy": {"last": score, "best": score, "epochs": [score], "steps": [1]}}
        settings = {"model": "org/tiny", "select": {"metric": "accuracy", "epoch": "last"}}
        cost = {"seconds": 0.0, "steps_trained": 1, "steps_inherited": 0}
        store.write(RunRecord(key, "done", scores, [], settings, {}, cost))
    (tmp_path / "compared" / "comparison.json").write_text(json.dumps(Rules("ce", tuple(gains)[1:]).to_dict()))
    return tmp_path / "compared"


def test_the_table_of_comparisons_is_that_of_scipy_and_of_the_verdicts(evidence, compared):
    lines = evidence.text_section(evidence.take_over("text", compared)).splitlines()
    mixed, focal = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:4])
    assert mixed[:5] == ["mine, first 9,000", "tiny", "F = 0-0.5 (ramp)", "6", "65.00"]
    assert mixed[5].startswith("+1.00 ")
    assert (mixed[6], focal[6]) == ("better", "not yet")
    # Four differences of 1.1, 0.9, 1.1 and 0.9 points.
    low, high = stats.t.interval(0.95, 3, 1.0, stats.sem([1.1, 0.9, 1.1, 0.9]))
    assert mixed[7] == f"+1.00 \\[{low:.2f}, {high:.2f}\\]: better"
    assert focal[7].endswith(": no difference shown")
    assert lines.count("elmix compare --train_file mine.csv --max_train_samples 9000") == 1


def test_another_comparison_is_not_taken_over(evidence, compared):
    (compared / "comparison.json").write_text(json.dumps(Rules("ce", ("0-0.5",)).to_dict()))
    with pytest.raises(SystemExit, match="Expected a comparison of 0-0.5, focal:gamma=2 with ce in "):
        evidence.take_over("text", compared)


def test_an_unfinished_study_is_not_taken_over(evidence, reviews, tmp_path):
    shutil.copytree(reviews / "lstm-1x50", tmp_path / "lstm-1x50")
    shutil.copy(reviews / "study.json", tmp_path)
    with pytest.raises(SystemExit, match="Expected the records of a whole study in .*, but got 32 of 160. Continue"):
        evidence.take_over("reviews", tmp_path)


def test_pictures_come_onto_the_page_with_their_records(evidence, table, tmp_path):
    """Means 43, 44, … and standard deviation 1 over seeds, which all differ from CE by the same."""
    store, gains = Store(tmp_path), {"ce": 0.0, "0": 0.01, "0,0.5": 0.02, "0-0.5": 0.03}
    grid = {"tasks": ["cifar100-resnet20"], "methods": list(gains), "seeds": [0, 1, 2]}
    store.declare({"grids": [grid], "methods": {}, "settings": {}, "commands": []})
    settings, cost = {"select": {"metric": "accuracy", "epoch": "last"}}, {"seconds": 0.0, "steps_trained": 1}
    for method, gain in gains.items():
        for seed in (0, 1, 2):
            value = 0.4 + gain + seed / 100
            scores = {"accuracy": {"last": value, "best": 0.9, "epochs": [0.9, value], "steps": [1, 2]}}
            key = RunKey("cifar100-resnet20", method, seed)
            store.write(RunRecord(key, "done", scores, [], settings, {}, {**cost, "steps_inherited": 0}))
    evidence.take_over("images", tmp_path).to_parquet(tmp_path / "images.parquet")
    images = pd.read_parquet(tmp_path / "images.parquet")
    page = evidence.remade({**evidence.taken_over(), "images": images})[evidence.PAGE]
    (row,) = [line for line in page.splitlines() if line.startswith("| F = 0-0.5") and "68.48 ± 0.14" in line]
    assert [cell.strip() for cell in row.split("|")[3:5]] == ["44.00 ± 1.00", "+3.00 \\[3.00, 3.00\\]"]
    assert page.index("## Tables") < page.index("## Images") < page.index("## What this does not show")
    name, differences = evidence.overview_rows({**evidence.taken_over(), "images": images})[-1]
    assert name == evidence.FURTHER["images"]
    assert differences["0-0.5"]["difference"] == pytest.approx(3)
