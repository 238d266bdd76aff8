"""``elmix push``, as a user meets it."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import ModelCard

from glue_runs.__main__ import main as glue_runs
from hf_elmix.cli.main import main
from hf_elmix.errors import UsageError
from hf_elmix.hub.facts import facts_of
from hf_elmix.hub.model_card import write_model_card
from hf_elmix.hub.push import repo_ids

TEMPLATE = "org/{model}-{task}-{mixing}"


def held(hub, repo: str, kind: str = "models") -> dict[str, bytes]:
    folder = hub.store.home / kind / repo
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def repos(hub) -> set[str]:
    return {line["repo"] for line in hub.history()}


def declare(store, *commands: str) -> None:
    store.declare({"grids": [], "methods": {}, "settings": {}, "commands": list(commands)})


# Names.


@pytest.mark.parametrize(
    ("template", "mixing", "expected"),
    [
        (TEMPLATE, "ce", "org/bert-base-uncased-mrpc-ce"),
        (TEMPLATE, "0,0.5", "org/bert-base-uncased-mrpc-0_0.5"),
        (TEMPLATE, "0-0.5", "org/bert-base-uncased-mrpc-0-0.5"),
        (TEMPLATE, "ce@0 1:4@5/6", "org/bert-base-uncased-mrpc-ce_0_1_4_5_6"),
        ("org/{task}.{seed}", "ce", "org/mrpc.3"),
        ("{task}", "ce", "mrpc"),
        ("org/all", "ce", "org/all"),
    ],
)
def test_ids_from_template(run_of, template, mixing, expected):
    record = run_of(mixing=mixing, seed=3)
    assert repo_ids(template, [record]) == {expected: record}


def test_id_from_folder_has_only_allowed_characters(run_of):
    record = run_of()
    record.settings["model"] = "/home/me/my--own..bért model"
    assert list(repo_ids("org/{model}", [record])) == ["org/my-own.b_rt_model"]


def test_best_seed_or_all_seeds(run_of):
    runs = [run_of(seed=seed, score=score) for seed, score in enumerate([0.7, 0.9, 0.9])]
    assert list(repo_ids("org/{task}", runs).values()) == [runs[1]]
    assert list(repo_ids("org/{task}-{seed}", runs).values()) == runs


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("org/{task}", "gives mrpc 0 seed 0 and mrpc ce seed 0 the same id, 'org/mrpc'"),
        ("org/{modle}", r"Unknown placeholder \{modle\} in 'org/\{modle\}'. Expected something like org/\{model\}-"),
        ("org/{model.name}", r"Unknown placeholder \{model.name\}"),
        ("org/{}", r"Unknown placeholder \{\}"),
        ("org/{model", "is not a template"),
        ("org/model}", "is not a template"),
        ("org/{task}-{mixing:d}", "gives no valid id for mrpc 0 seed 0"),
        ("org/my model {mixing}", "gives no valid id for mrpc 0 seed 0: Repo id must use alphanumeric chars"),
        ("org/team/{mixing}", "gives no valid id for mrpc 0 seed 0"),
        ("org/--{mixing}", "gives no valid id"),
        ("org/" + 96 * "x" + "{mixing}", "gives no valid id"),
    ],
)
def test_invalid_templates(run_of, template, message):
    with pytest.raises(UsageError, match=message):
        repo_ids(template, [run_of(mixing="0"), run_of(mixing="ce")])


# The command.


def test_kept_models_are_pushed_with_cards(local_hub, runs, run_of, capsys):
    kept = [run_of(mixing="ce", seed=1, score=0.8), run_of(mixing="0,0.5"), run_of("mnli", "ce")]
    store = runs((run_of(mixing="ce", score=0.7), False), *((record, True) for record in kept))
    before = {path: path.read_bytes() for path in Path(store.folder).rglob("*") if path.is_file()}
    assert main(["push", str(store.folder), "--hub_id_template", TEMPLATE]) == 0
    names = {f"org/bert-base-uncased-{name}" for name in ("mrpc-ce", "mrpc-0_0.5", "mnli-ce")}
    assert repos(local_hub) == names
    lines = capsys.readouterr().out.splitlines()
    assert {line.split(": ")[0] for line in lines} == {f"{local_hub.url}/{name}" for name in names}
    files = held(local_hub, "org/bert-base-uncased-mrpc-ce")
    assert files["model.safetensors"] == b"mrpc ce seed 1"
    text = files["README.md"].decode()
    assert "accuracy is 75.00 ± 7.07 %" in text
    assert "the model of seed 1, the best of them" in text
    assert yaml.safe_load(text.split("---\n")[1])["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.8
    assert {path: path.read_bytes() for path in Path(store.folder).rglob("*") if path.is_file()} == before
    assert main(["push", str(store.folder), "--hub_id_template", TEMPLATE]) == 0
    assert capsys.readouterr().out.count("nothing changed") == 3


def test_chosen_candidates_are_pushed_under_name_of_method(local_hub, runs, run_of):
    scores = {("[lr=1]", 0): 0.7, ("[lr=2]", 0): 0.8, ("[lr=1]", 1): 0.9, ("[lr=2]", 1): 0.6}
    made = {place: run_of(mixing="ce", seed=place[1], score=score) for place, score in scores.items()}
    keyed = [replace(run, key=replace(run.key, method=f"ce {name}")) for (name, _), run in made.items()]
    store = runs(*((record, True) for record in keyed))
    assert main(["push", str(store.folder), "--hub_id_template", "org/{mixing}-{seed}"]) == 0
    assert repos(local_hub) == {"org/ce-0", "org/ce-1"}
    assert held(local_hub, "org/ce-0")["model.safetensors"] == b"mrpc ce [lr=2] seed 0"
    files = held(local_hub, "org/ce-1")
    assert files["model.safetensors"] == b"mrpc ce [lr=1] seed 1"
    assert "Over the 2 seeds of the study, accuracy is 85.00 ± 7.07 %" in files["README.md"].decode()
    assert main(["push", str(store.folder), "--hub_id_template", "org/best-{mixing}"]) == 0
    assert held(local_hub, "org/best-ce")["model.safetensors"] == b"mrpc ce [lr=1] seed 1"


def test_changed_record_updates_only_the_card(local_hub, runs, run_of, capsys):
    store = runs((run_of(mixing="ce", seed=1), True))
    words = ["push", str(store.folder), "--hub_id_template", TEMPLATE]
    assert main(words) == 0
    store.write(run_of(mixing="ce", seed=2, score=0.5))
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(")")
    assert local_hub.history()[-1]["added"] == ["README.md"]


def test_private_push_of_every_seed(local_hub, runs, run_of):
    store = runs(*((run_of(seed=seed), True) for seed in (0, 1)))
    assert main(["push", str(store.folder), "--hub_id_template", "{task}-{seed}", "--private"]) == 0
    assert local_hub.store.private == {("models", "tester/mrpc-0"), ("models", "tester/mrpc-1")}


def test_nothing_is_uploaded_if_one_name_is_taken(local_hub, runs, run_of, capsys):
    store = runs((run_of(mixing="ce"), True), (run_of(mixing="0"), True))
    taken = local_hub.store.home / "models" / "org" / "bert-base-uncased-mrpc-ce"
    taken.mkdir(parents=True)
    (taken / "model.safetensors").write_text("theirs")
    words = ["push", str(store.folder), "--hub_id_template", TEMPLATE]
    assert main(words) == 2
    assert "not made by hf_elmix" in capsys.readouterr().err
    assert not local_hub.history()
    assert main([*words, "--overwrite"]) == 0
    assert (taken / "model.safetensors").read_text() == "mrpc ce seed 0"


def test_models_were_not_kept(local_hub, runs, run_of, capsys):
    store = runs((run_of(mixing="ce"), False), (run_of(mixing="0", status="failed", score=None), True))
    assert main(["push", str(store.folder), "--hub_id_template", TEMPLATE]) == 2
    assert f"No model was kept in '{store.folder}'. Repeat the study with --keep best" in capsys.readouterr().err
    declare(store, "glue-runs study --output_dir runs")
    assert main(["push", str(store.folder), "--hub_id_template", TEMPLATE]) == 2
    assert "keep them: glue-runs study --output_dir runs --keep best --overwrite\n" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["", "model", "model/config.json"])
def test_link_in_study_is_not_published(local_hub, runs, run_of, tmp_path, place, capsys):
    store = runs((run_of(mixing="ce"), True))
    path = Path(store.folder_of(run_of(mixing="ce").key), place)
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    assert main(["push", str(store.folder), "--hub_id_template", TEMPLATE]) == 2
    assert f"{str(path)!r} is a link" in capsys.readouterr().err
    assert not local_hub.history()


def test_study_folder_may_be_a_link(local_hub, runs, run_of, tmp_path):
    store = runs((run_of(mixing="ce"), True))
    (tmp_path / "link").symlink_to(str(store.folder))
    assert main(["push", str(tmp_path / "link"), "--hub_id_template", TEMPLATE]) == 0


def test_models_at_url(local_hub, run_of):
    from hf_elmix.study.store import Store

    store = Store("memory://pushed/runs")
    store.write(run_of(mixing="ce"))
    folder = store.folder_of(run_of(mixing="ce").key) / "model"
    for name, text in {"config.json": "{}", "model.safetensors": "weights", "training_args.bin": "private"}.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode())
    assert main(["push", "memory://pushed/runs", "--hub_id_template", TEMPLATE]) == 0
    files = held(local_hub, "org/bert-base-uncased-mrpc-ce")
    assert files["model.safetensors"] == b"weights"
    assert "training_args.bin" not in files


def test_push_results_as_dataset(local_hub, runs, run_of, capsys):
    failed = run_of(mixing="0", seed=1, score=None, status="failed", error="ValueError: no\nat /home/secret/x.py")
    store = runs(*((run_of(mixing=m, seed=s), False) for m, s in (("ce", 0), ("0", 0), ("ce", 1))), (failed, False))
    command = "glue-runs study --output_dir /home/secret/runs --dataset_name=/home/secret/rows --tasks mrpc --lr 0.5"
    command += " --model_name_or_path google-bert/bert-base-uncased --mixings ce '1:4@5/6' --run_name=secret"
    declare(
        store, command + """ --deepspeed secret.json --accelerator_config '{"file": "secret"}'""", "no 'secret command"
    )
    words = ["push", str(store.folder), "--results", "--hub_id", "org/my-runs"]
    assert main(words) == 0
    files = held(local_hub, "org/my-runs", "datasets")
    assert set(files) == {".gitattributes", "README.md", "runs.parquet", "curves.parquet", "profile.png"}
    table = pd.read_parquet(io.BytesIO(files["runs.parquet"]))
    assert sorted(zip(table["method"], table["seed"], table["status"], strict=True)) == [
        ("0", 0, "done"),
        ("0", 1, "failed"),
        ("ce", 0, "done"),
        ("ce", 1, "done"),
    ]
    assert set(table["error"].dropna()) == {"ValueError"}
    assert "secret" not in table.to_csv() + str(pq.read_schema(io.BytesIO(files["runs.parquet"])).metadata)
    assert not any(b"secret" in content for content in files.values())
    shown = "glue-runs study --output_dir runs --dataset_name=rows --tasks mrpc --lr 0.5"
    shown += " --model_name_or_path google-bert/bert-base-uncased --mixings ce 1:4@5/6 --run_name=…"
    assert f"{shown} --deepspeed … --accelerator_config …\n" in files["README.md"].decode().replace("'", "")
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{local_hub.url}/datasets/org/my-runs: nothing changed"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--results"],
        ["--hub_id", "org/x"],
        ["--hub_id_template", TEMPLATE, "--results"],
        ["--hub_id_template", TEMPLATE, "--results", "--hub_id", "org/x"],
        ["--results", "--hub_id", "org/my runs"],
        ["--hub_id_template", "org/{what}"],
        ["--hub_id_template", TEMPLATE, "--hub_token", "hf_x"],
        ["--hub_id_template", "other/{task}"],
    ],
)
def test_usage_errors_are_one_line(local_hub, runs, run_of, words, capsys):
    store = runs((run_of(), True))
    assert main(["push", str(store.folder), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("elmix: ")
    assert not local_hub.history()


@pytest.mark.parametrize("words", [["--results", "--hub_id", "org/x"], ["--hub_id_template", TEMPLATE]])
def test_folder_without_runs(local_hub, tmp_path, words, capsys):
    (tmp_path / "empty").mkdir()
    for name in ("nowhere", "empty"):
        assert main(["push", str(tmp_path / name), *words]) == 2
        assert name in capsys.readouterr().err


# A single model.


def test_model_of_finetune_is_pushed_again_with_its_card_as_edited(local_hub, runs, run_of, tmp_path, capsys):
    store = runs((run_of(), True))
    folder = store.folder_of(run_of().key) / "model"
    write_model_card(folder, facts_of(run_of()), "mrpc")
    words = ["push", str(folder), "--hub_id", "org/again"]
    assert [main(words), main(words)] == [0, 0]
    assert [line.split(": ")[1][:8] for line in capsys.readouterr().out.splitlines()] == ["uploaded", "nothing "]
    (folder / "README.md").write_text((folder / "README.md").read_text().replace("# mrpc\n", "# Mine\n"))
    assert main([*words, "--license", "mit"]) == 0
    files = held(local_hub, "org/again")
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "mit"
    assert "# Mine\n" in card.text
    assert 'pipeline("text-classification", model="org/again")' in card.text
    assert set(files) > {"README.md", "config.json", "model.safetensors", "schedule.png"}
    card.data.eval_results[0].metric_value += 1  # the rest of the metadata is as it was
    assert ModelCard((folder / "README.md").read_text()).data.eval_results != card.data.eval_results


@pytest.mark.parametrize("text", [None, "", "---\ntags: [a]\n---\n", "---\nhf_elmix: word\n---\n", "---\na: [\n---\n"])
def test_single_model_without_a_card_of_ours(local_hub, tmp_path, text, capsys):
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    assert main(["push", str(tmp_path), "--hub_id", "org/x"]) == 2
    assert "Expected a model with its card" in capsys.readouterr().err
    assert not local_hub.history()


def test_licence_is_that_of_the_base_model_or_the_one_given(local_hub, runs, run_of):
    base = local_hub.store.home / "models" / run_of().settings["model"]
    base.mkdir(parents=True)
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    record = run_of()
    record.provenance["model_revision"] = local_hub.store.sha(base)
    store = runs((record, True))
    words = ["push", str(store.folder), "--hub_id_template", "org/{task}"]
    for more, licence in (([], "apache-2.0"), (["--license", "mit"], "mit")):
        assert main([*words, *more]) == 0
        assert ModelCard(held(local_hub, "org/mrpc")["README.md"].decode()).data.license == licence
    assert main(["push", str(store.folder), "--results", "--hub_id", "org/all", "--license", "cc0-1.0"]) == 0
    assert b"\nlicense: cc0-1.0\n" in held(local_hub, "org/all", "datasets")["README.md"]


# With the real clients.

PUSH_AND_LOAD = """
import json, re, sys
from huggingface_hub import hf_hub_download
from hf_elmix.cli.main import main

push = ["push", sys.argv[1]]
assert main([*push, "--hub_id_template", "org/{model}-{task}-{mixing}"]) == 0
assert main([*push, "--results", "--hub_id", "org/my-runs"]) == 0

def run_example(repo, kind):
    card = open(hf_hub_download(repo, "README.md", repo_type=kind)).read()
    (code,) = re.findall(r"```python\\n(.*?)```", card, flags=re.DOTALL)
    exec(code, globals())

run_example("org/encoder-cola-ce", "model")
said = [answer["label"] for answer in classify(json.loads(sys.argv[2]))]
run_example("org/my-runs", "dataset")
print(json.dumps({"said": said, "scores": runs["score"].tolist(), "curves": list(curves.columns)}))
"""


@pytest.mark.slow
def test_pushed_models_and_results_load_as_cards_say(local_hub, glue, encoder, good_rows, tmp_path):
    """The examples on the cards, run as they stand in another process, give the scores of the record."""
    rows, runs = good_rows("cola"), tmp_path / "runs"
    data = glue("cola", train=rows, validation=rows)
    words = ["--output_dir", str(runs), "--tasks", "cola", "--seeds", "0", "--mixings", "ce", "--dataset_name", data]
    fast = ["--max_steps", "2", "--use_cpu", "--learning_rate", "0.01", "--keep", "best"]
    assert glue_runs(["study", *words, "--model_name_or_path", encoder, *fast]) == 0
    more = {"HF_ENDPOINT": local_hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **more, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": local_hub.token}

    words = [sys.executable, "-c", PUSH_AND_LOAD, str(runs), json.dumps([row["sentence"] for row in rows])]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert local_hub.token not in done.stdout + done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    record = json.loads((runs / "cola/ce/seed0/record.json").read_text())
    labels = ("unacceptable", "acceptable")
    right = [said == labels[row["label"]] for said, row in zip(loaded["said"], rows, strict=True)]
    assert sum(right) / len(right) == pytest.approx(record["scores"]["accuracy"]["last"])
    assert loaded["scores"] == [record["scores"]["accuracy"]["last"]]
    assert loaded["curves"] == ["task", "method", "seed", "epoch", "quantity", "value"]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if local_hub.token.encode() in path.read_bytes()] == []
    pushed = held(local_hub, "org/encoder-cola-ce")
    assert pushed["tokenizer.json"] == (runs / "cola/ce/seed0/model/tokenizer.json").read_bytes()
    config = pushed["config.json"].decode()
    assert not re.search(re.escape(str(tmp_path)) + "|" + re.escape(encoder), config)
