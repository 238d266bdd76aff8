from __future__ import annotations

import importlib.metadata
import io
import re
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from hf_elmix.hub.facts import ModelFacts, Score
from hf_elmix.hub.model_card import CARD, CITATION, PICTURE, card_files, model_mark, project, write_model_card
from hf_elmix.losses.registry import parse_loss
from hf_elmix.losses.schedules import REGIMES, MixingSchedule

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXT = {"columns": ["sentence1", "sentence2"], "labels": ["not_equivalent", "equivalent"]}
FACTS = ModelFacts(
    task="mrpc",
    seed=3,
    settings={
        **{"model": "google-bert/bert-base-uncased", "dataset": "nyu-mll/corpus", "text": TEXT, "loss": "mix:0-0.5"},
        **{"padding": "free", "arguments": {"learning_rate": 2e-5, "bf16": False}},
    },
    provenance={
        **{"model_revision": COMMIT, "data_revision": COMMIT[::-1], "data_rows": {"train": 3668, "validation": 408}},
        **{"versions": {"torch": "2.13.0"}, "device": "cpu"},
    },
    scores=(Score("validation", "accuracy", 0.8480392156862745), Score("validation", "f1", 0.8)),
    notes=("Over the 4 seeds it is 84 %.",),
)
NASTY = "<script>alert(1)</script> |`*_[x](y)_*`| & &amp; \\ $z$ ~~s~~\n---\n# a: 'b' \"c\""
PUBLIC = re.sub(r"[/\\~]", "", NASTY)  # a text that looks like a path is not published


def with_settings(**settings) -> ModelFacts:
    return replace(FACTS, settings={**FACTS.settings, **settings})


def with_provenance(facts: ModelFacts = FACTS, **provenance) -> ModelFacts:
    return replace(facts, provenance={**facts.provenance, **provenance})


def card(facts: ModelFacts = FACTS, repo: str = "org/bert-mrpc") -> str:
    return card_files(facts, repo)[CARD].decode()


def metadata(text: str) -> dict:
    """As the Hub reads it: what stands between the first two lines of dashes."""
    _, block, _ = re.split(r"^---\n", text, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(block)


def rendered(text: str) -> str:
    body = re.split(r"^---\n", text, maxsplit=2, flags=re.MULTILINE)[2]
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(body)


def cells(text: str) -> list[list[str]]:
    """The cells of all tables, as text."""
    rows = re.findall(r"<tr>(.*?)</tr>", rendered(text), flags=re.DOTALL)
    return [[re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[dh].*?</t[dh]>", row)] for row in rows]


def test_scores_are_in_metadata():
    (index,) = metadata(card())["model-index"]
    assert index["name"] == "bert-mrpc"
    (result,) = index["results"]
    assert result["task"] == {"type": "text-classification"}
    assert result["dataset"] == {
        "name": "nyu-mll/corpus mrpc",
        "type": "nyu-mll/corpus",
        "config": "mrpc",
        "split": "validation",
        "revision": COMMIT[::-1],
    }
    assert result["metrics"] == [{"type": "accuracy", "value": 0.8480392156862745}, {"type": "f1", "value": 0.8}]


def test_metadata_is_read_back_by_client():
    data = ModelCard(card()).data
    assert [(result.metric_type, result.metric_value) for result in data.eval_results] == [
        ("accuracy", 0.8480392156862745),
        ("f1", 0.8),
    ]
    assert (data.base_model, data.datasets) == ("google-bert/bert-base-uncased", ["nyu-mll/corpus"])
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-classification")
    assert data["hf_elmix"] == model_mark(FACTS)
    assert "hf_elmix" in data.tags


def test_licence_and_project():
    data = ModelCard(card(replace(FACTS, licence={"license": "other", "license_name": "mine"}))).data
    assert (data.license, data.license_name) == ("other", "mine")
    assert "license" not in metadata(card())
    about = importlib.metadata.metadata("hf-elmix")
    assert f"with hf_elmix {about['Version']} (Apache-2.0) and the mixed loss" in rendered(card())


def test_each_split_is_one_result():
    scores = (Score("matched", "accuracy", 0.84), Score("mismatched", "accuracy", 0.85))
    results = metadata(card(replace(FACTS, scores=scores)))["model-index"][0]["results"]
    found = {result["dataset"]["split"]: result["metrics"][0]["value"] for result in results}
    assert found == {"matched": 0.84, "mismatched": 0.85}


def test_card_states_every_fact():
    text, html = card(), rendered(card())
    for title in ("How to use it", "The loss", "Scores", "Data", "Settings", "Versions", "Citation"):
        assert f"<h2>{title}</h2>" in html
    rows = cells(text)
    for row in (
        ["validation", "accuracy", "0.8480"],
        ["train", "3668"],
        ["learning_rate", "2e-05"],
        ["bf16", "false"],
        ["padding", "free"],
        ["torch", "2.13.0"],
    ):
        assert row in rows
    assert "not_equivalent or equivalent" in html
    assert "Over the 4 seeds it is 84 %." in html
    assert 'href="https://huggingface.co/google-bert/bert-base-uncased"' in html
    assert 'href="https://huggingface.co/datasets/nyu-mll/corpus"' in html
    assert f'<img src="{PICTURE}"' in html
    assert CITATION in text


@pytest.mark.parametrize("mixing", [*REGIMES, "ce@0 1:4@5/6 0.5@0.95"])
def test_table_of_schedule(mixing):
    schedule = MixingSchedule.parse(mixing)
    rows = [
        row for row in cells(card(with_settings(loss=str(parse_loss(mixing))))) if len(row) == 5 and row[0] != "from"
    ]
    starts = [float(row[0].removesuffix(" %")) for row in rows]
    assert [float(row[1].removesuffix(" %")) for row in rows] == [*starts[1:], 100]
    for row, start, end in zip(rows, starts, [*starts[1:], 100], strict=True):
        weights = schedule.weights(int((start + end) / 2 * 1000), 100_000)
        assert [float(row[2]), float(row[3])] == pytest.approx(weights, rel=1e-3)


def test_phases_that_were_not_trained_are_not_in_the_card():
    switch = with_settings(loss="mix:0,0.5")
    rows = [[cell for cell in row] for row in cells(card(switch)) if row[0].endswith("%")]
    assert [row[:2] for row in rows] == [["0 %", "95 %"], ["95 %", "100 %"]]
    short = card_files(replace(switch, steps=4), "org/bert-mrpc")
    rows = [row for row in cells(short[CARD].decode()) if row[0].endswith("%")]
    assert [row[:2] for row in rows] == [["0 %", "100 %"]]
    constant = card_files(with_settings(loss="mix:0"), "org/bert-mrpc")
    assert short[PICTURE] == constant[PICTURE]
    assert card_files(replace(switch, steps=100), "org/bert-mrpc")[PICTURE] != constant[PICTURE]


def test_example_in_card():
    (code,) = re.findall(r"```python\n(.*?)```", card(), flags=re.DOTALL)
    compile(code, "card", "exec")
    assert 'pipeline("text-classification", model="org/bert-mrpc")' in code
    assert '{"text": "…", "text_pair": "…"}' in code
    assert "text_pair" not in card(with_settings(text={**TEXT, "columns": ["sentence"]}))


def test_stock_loss_has_no_picture():
    files = card_files(with_settings(loss=None), "org/bert")
    assert set(files) == {CARD}
    assert "The model was trained with the Trainer's own loss: cross entropy" in files[CARD].decode()
    assert PICTURE not in files[CARD].decode()


def test_unknown_facts_are_left_out():
    text = card(ModelFacts("mrpc", 3, {"loss": "ce"}, {}))
    assert metadata(text).keys() & {"model-index", "metrics"} == set()
    assert not re.search(r"^## (Scores|Data|Versions)", text, flags=re.MULTILINE)


def test_card_of_regression_on_custom_rows():
    text = card(with_settings(text={**TEXT, "labels": []}, config=None, loss=None))
    assert "It predicts a number." in text
    assert metadata(text)["model-index"][0]["results"][0]["dataset"]["name"] == "nyu-mll/corpus"
    assert "configuration" not in text


def test_card_of_task_without_text():
    text = card(replace(FACTS, settings={"loss": "mix:0-0.5"}))
    assert f"A model trained on the task mrpc with {project()} and the mixed loss (schedule F = 0-0.5)." in text
    assert metadata(text).keys() & {"model-index", "pipeline_tag", "base_model", "datasets"} == set()
    assert "How to use it" not in text
    assert ["validation", "accuracy", "0.8480"] in cells(text)


def test_local_folder_is_not_linked():
    folders = with_settings(model="/home/me/encoder", dataset="/home/me/rows")
    text = card(with_provenance(folders, model_revision=None, data_revision=None))
    assert metadata(text).keys() & {"base_model", "datasets"} == set()
    assert "encoder (local), fine-tuned on the task mrpc of rows (local) with" in text
    assert "huggingface.co/" not in text
    file = with_settings(dataset="/home/me/mrpc.csv")
    assert "fine-tuned on mrpc.csv (local) with" in card(with_provenance(file, data_revision=None))


@pytest.mark.parametrize(
    "facts",
    [
        replace(FACTS, task=NASTY),
        replace(FACTS, notes=(NASTY,)),
        with_settings(config=NASTY),
        with_settings(text={**TEXT, "labels": [NASTY, "b"]}),
        with_settings(arguments={"optim": PUBLIC, PUBLIC: 1}),
        with_settings(model=NASTY),
        with_provenance(versions={PUBLIC: PUBLIC}),
        with_provenance(with_settings(dataset=NASTY), data_revision=NASTY),
        with_provenance(data_rows={NASTY: 3}),
    ],
)
def test_names_are_escaped_for_markdown(facts):
    text = card(facts)
    html = rendered(text)
    plain = re.sub(r"<[^>]+>", "", html)
    for sign, name in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        plain = plain.replace(sign, name)
    # Of a place only the last part is published.
    assert any(" ".join(form.split()) in plain for form in (NASTY, PUBLIC, NASTY.rpartition("/")[2]))
    assert "<script" not in html
    assert "<h1>a" not in html
    assert html.count("<h2>") == 7
    assert metadata(text)["tags"] == ["hf_elmix", "mixed-loss"]
    assert metadata(text)["hf_elmix"]["task"] == facts.task


def test_mark_distinguishes_models():
    others = [
        replace(FACTS, task="rte"),
        with_settings(loss="mix:0"),
        with_settings(model="other/bert"),
    ]
    assert len({tuple(model_mark(facts).values()) for facts in [FACTS, *others]}) == 4
    assert model_mark(replace(FACTS, scores=(), seed=4)) == model_mark(FACTS)


def test_same_facts_give_same_files():
    assert card_files(FACTS, "org/bert") == card_files(FACTS, "org/bert")
    assert card_files(FACTS, "org/bert")[PICTURE] != card_files(with_settings(loss="mix:0"), "org/bert")[PICTURE]


def test_picture_is_png():
    picture = matplotlib.image.imread(io.BytesIO(card_files(FACTS, "org/bert")[PICTURE]))
    assert picture.shape[:2] == (512, 1024)
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 20


def test_card_and_picture_are_written_to_folder(tmp_path):
    (tmp_path / CARD).write_text("old")
    write_model_card(tmp_path, FACTS, "org/bert")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == card_files(FACTS, "org/bert")


def test_a_loss_stays_within_its_line_of_code():
    text = card(with_settings(loss="`x`\n\n# Hostile\n[a](https://evil.example)\x1b[2J"))
    assert "The loss is `'x' # Hostile [a](https://evil.example)\\x1b[2J`, in the notation" in text
    assert '<a href="https://evil.example' not in rendered(text)


@pytest.mark.parametrize("loss", ["focal:gamma=2,alpha=0.25", "cot", "a_loss_of_the_users:power=2"])
def test_card_of_other_loss(loss):
    files = card_files(with_settings(loss=loss), "org/bert")
    assert set(files) == {CARD}
    text = files[CARD].decode()
    assert f"The loss is `{loss}`, in the notation of `hf_elmix.parse_loss`." in text
    assert "schedule.png" not in text
