from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from huggingface_hub import HfApi, constants

from hf_elmix.errors import UsageError
from hf_elmix.hub.model_card import CARD
from hf_elmix.hub.publish import Published, claim_repo, files_of_model, publish_files

MARK = {"model": "bert", "task": "mrpc", "loss": "mix:0-0.5"}
MADE_BY_US = f"---\nhf_elmix: {json.dumps(MARK)}\n---\n# It\n"
REPO = "org/bert-mrpc"


def publish_folder(folder: Path, *words, **options) -> Published:
    return publish_files(files_of_model(folder), *words, **options)


@pytest.fixture
def model(tmp_path: Path, write_model) -> Path:
    """A trained model with its card, and much that nobody should see."""
    folder = tmp_path / "model"
    folder.mkdir()
    write_model(folder)
    (folder / CARD).write_text(MADE_BY_US)
    (folder / "schedule.png").write_bytes(b"\x89PNG")
    return folder


def held(hub, repo: str = REPO, kind: str = "models") -> dict[str, bytes]:
    """What a repository holds now, read from the server's disk."""
    folder = hub.store.home / kind / repo
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def answer_cards(monkeypatch, answer) -> None:
    """Make the Hub answer every card in the same way."""
    import hub_server

    routes = [(method, path, answer if "yaml" in path else action) for method, path, action in hub_server.ROUTES]
    monkeypatch.setattr(hub_server, "ROUTES", routes)
    monkeypatch.setattr(hub_server, "OPEN", {answer, *hub_server.OPEN})


def commits(hub) -> list[dict]:
    return [line for line in hub.history() if line["message"] != "initial commit"]


def put(hub, repo: str, files: dict[str, str], root: int = -1) -> None:
    folder = hub.store.roots[root] / "models" / repo
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)


# Contents of the repository.


def test_only_model_and_card_are_published(local_hub, model):
    done = publish_folder(model, REPO, MARK)
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", CARD, "schedule.png"}
    assert set(held(local_hub)) == names | {".gitattributes"}
    assert {name: held(local_hub)[name] for name in names} == {name: (model / name).read_bytes() for name in names}
    assert done.url == f"{local_hub.url}/{REPO}"
    assert str(done) == f"{local_hub.url}/{REPO}: uploaded (commit {done.commit[:12]})"
    (commit,) = commits(local_hub)  # nobody ever sees half of it
    assert set(commit["added"]) == names


def test_second_push_uploads_only_changes(local_hub, model):
    publish_folder(model, REPO, MARK)
    local_hub.requests.clear()
    assert str(publish_folder(model, REPO, MARK)) == f"{local_hub.url}/{REPO}: nothing changed"
    assert len(commits(local_hub)) == 1
    assert not [path for method, path, _ in local_hub.requests if method == "PUT" or "/commit/" in path]
    (model / "tokenizer.json").write_text("{ }")
    assert publish_folder(model, REPO, MARK).commit == HfApi().repo_info(REPO).sha
    assert commits(local_hub)[-1]["added"] == ["tokenizer.json"]
    assert not [path for method, path, _ in local_hub.requests if method == "PUT"]
    (model / "model.safetensors").write_bytes(b"trained more")
    publish_folder(model, REPO, MARK)
    assert commits(local_hub)[-1]["added"] == ["model.safetensors"]
    assert held(local_hub)["model.safetensors"] == b"trained more"


def test_second_push_to_a_hub_that_cannot_check_for_write_access(local_hub, model, monkeypatch):
    import hub_server

    publish_folder(model, REPO, MARK)
    monkeypatch.setattr(hub_server, "ROUTES", [route for route in hub_server.ROUTES if "auth-check" not in route[1]])
    assert str(publish_folder(model, REPO, MARK)) == f"{local_hub.url}/{REPO}: nothing changed"


def test_other_files_in_repository_stay(local_hub, model):
    publish_folder(model, REPO, MARK)
    (local_hub.store.home / "models" / REPO / "LICENSE").write_text("mine")
    assert publish_folder(model, REPO, MARK).commit is None
    (model / "config.json").write_text("{ }")
    publish_folder(model, REPO, MARK)
    assert held(local_hub)["LICENSE"] == b"mine"


def test_publish_dataset(local_hub):
    files = {"runs.parquet": b"PAR1", CARD: b"# Runs\n"}
    done = publish_files(files, "org/runs", {"holds": "runs"}, repo_type="dataset")
    assert done.url == f"{local_hub.url}/datasets/org/runs"
    assert {name: held(local_hub, "org/runs", "datasets")[name] for name in files} == files


def test_name_without_namespace_gets_users(local_hub, model):
    assert publish_folder(model, "bert-mrpc", MARK).url == f"{local_hub.url}/tester/bert-mrpc"
    assert CARD in held(local_hub, "tester/bert-mrpc")


@pytest.mark.parametrize("private", [None, True])
def test_private_repository(local_hub, model, private):
    publish_folder(model, REPO, MARK, private=private)
    assert HfApi().repo_info(REPO).private is bool(private)
    publish_folder(model, REPO, MARK, private=None)
    assert HfApi().repo_info(REPO).private is bool(private)


def test_folder_with_pickles_only_is_rejected(model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(UsageError, match="no .safetensors file"):
        files_of_model(model)


@pytest.mark.parametrize("size", [0, 1, 2**20 + 1])
def test_unchanged_files_of_any_size_are_recognised(local_hub, tmp_path, size):
    (tmp_path / "file.json").write_bytes(bytes(size))
    (tmp_path / "file.safetensors").write_bytes(bytes(max(size, 1)))
    files = {name: tmp_path / name for name in ("file.json", "file.safetensors")}
    for expected in (1, 1):
        publish_files({**files, CARD: MADE_BY_US.encode()}, REPO, MARK)
        assert len(commits(local_hub)) == expected
    assert {name: held(local_hub)[name] for name in files} == {name: path.read_bytes() for name, path in files.items()}


# Failing requests.


@pytest.mark.parametrize(
    ("method", "path", "after"),
    [
        ("GET", "/api/models/", False),
        ("POST", "/api/repos/create", False),
        ("POST", "/api/repos/create", True),
        ("POST", "/api/validate-yaml", False),
        ("POST", "/preupload/", False),
        ("POST", "/objects/batch", False),
        ("PUT", "/lfs/", False),
        ("PUT", "/lfs/", True),
        ("POST", "/commit/", False),
        ("POST", "/commit/", True),
    ],
)
def test_push_is_retried_after_failure_at_any_request(local_hub, model, method, path, after):
    from hub_server import Fault

    local_hub.faults.append(Fault(method, path, times=2, after=after))
    done = publish_folder(model, REPO, MARK)
    assert local_hub.faults[0].times == 0 or after
    (commit,) = commits(local_hub)
    assert len(commit["added"]) == 6
    assert done.commit == HfApi().repo_info(REPO).sha
    assert publish_folder(model, REPO, MARK).commit is None


@pytest.mark.parametrize(("method", "path"), [("PUT", "/lfs/"), ("POST", "/commit/"), ("GET", "/api/models/")])
def test_failed_push_leaves_repository_unchanged(local_hub, model, method, path):
    from hub_server import Fault

    publish_folder(model, REPO, MARK)
    before = held(local_hub)
    (model / "model.safetensors").write_bytes(b"trained more")
    (model / CARD).write_text(MADE_BY_US + "more\n")
    local_hub.faults.append(Fault(method, path, times=1000))
    with pytest.raises(UsageError, match=f"The Hub failed at {REPO}: .*500.* run the same command again"):
        publish_folder(model, REPO, MARK)
    assert held(local_hub) == before
    local_hub.faults.clear()
    publish_folder(model, REPO, MARK)
    assert set(commits(local_hub)[-1]["added"]) == {CARD, "model.safetensors"}


def test_commit_of_others_during_push_is_kept(local_hub, model, monkeypatch):
    publish_folder(model, REPO, MARK)
    (model / "config.json").write_text("{ }")
    commit = HfApi.create_commit

    def meanwhile(*args, **kwargs):
        (local_hub.store.home / "models" / REPO / "config.json").write_text("from somebody else")
        return commit(*args, **kwargs)

    monkeypatch.setattr(HfApi, "create_commit", meanwhile)
    with pytest.raises(UsageError, match=f"{REPO} changed during the push"):
        publish_folder(model, REPO, MARK)
    assert held(local_hub)["config.json"] == b"from somebody else"


# Mistakes of users.


def test_not_logged_in(local_hub, model, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    for repo in (REPO, "bert-mrpc"):
        with pytest.raises(UsageError, match=r"not logged in .* hf auth login \(or set HF_TOKEN\)"):
            publish_folder(model, repo, MARK)
    assert not local_hub.history()


def test_token_of_standard_login_is_used(local_hub, model, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    Path(constants.HF_TOKEN_PATH).write_text(local_hub.token)  # where `hf auth login` leaves it
    assert publish_folder(model, REPO, MARK).commit


@pytest.mark.parametrize("repo", [REPO, "bert-mrpc"])
def test_unknown_token(local_hub, model, monkeypatch, repo):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UsageError, match="does not recognise your access token. Type: hf auth login") as caught:
        publish_folder(model, repo, MARK)
    assert "hf_wrong" not in str(caught.value)
    assert not local_hub.history()


def test_namespace_without_write_access(local_hub, model):
    with pytest.raises(
        UsageError,
        match="does not allow you to write to other/bert .*under the namespace.* Choose one of your namespaces",
    ):
        publish_folder(model, "other/bert", MARK)


def test_repository_without_write_access(local_hub, model):
    put(local_hub, "other/bert", {CARD: MADE_BY_US})
    put(local_hub, "org/theirs", {CARD: MADE_BY_US}, root=0)
    for repo in ("other/bert", "org/theirs"):
        with pytest.raises(UsageError, match=f"does not allow you to write to {repo}"):
            publish_folder(model, repo, MARK, overwrite=True)
        with pytest.raises(UsageError, match=f"does not allow you to write to {repo}"):
            claim_repo(repo, MARK)


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({"model.safetensors": "theirs"}, "not made by hf_elmix"),
        ({CARD: "# My model\n", "model.safetensors": "theirs"}, "not made by hf_elmix"),
        ({CARD: "---\nlicense: mit\n---\n# My model\n"}, "not made by hf_elmix"),
        ({CARD: "---\n[unclosed\n---\n"}, "not made by hf_elmix"),
        ({CARD: "---\nhf_elmix: 1\n---\n"}, "not made by hf_elmix"),
        ({CARD: MADE_BY_US.replace("mrpc", "rte")}, "'bert', 'rte', 'mix:0-0.5', not 'bert', 'mrpc', 'mix:0-0.5'"),
    ],
)
def test_repository_with_other_contents_is_not_replaced(local_hub, model, files, what):
    """Another model is replaced only when asked for, and then as a whole: what is loaded must be of one model."""
    put(local_hub, REPO, {**files, "adapter_config.json": "{}"})
    before = held(local_hub)
    for attempt in (claim_repo, lambda *words: publish_folder(model, *words)):
        with pytest.raises(UsageError, match=f"{REPO} already exists and holds something else .{what}.*--overwrite"):
            attempt(REPO, MARK)
    assert held(local_hub) == before
    publish_folder(model, REPO, MARK, overwrite=True)
    assert "adapter_config.json" in commits(local_hub)[-1]["deleted"]
    assert set(held(local_hub)) == {*files_of_model(model), CARD, "schedule.png"}
    assert publish_folder(model, REPO, MARK).commit is None


def test_public_repository_is_rejected_for_private_push(local_hub, model):
    publish_folder(model, REPO, MARK)
    with pytest.raises(UsageError, match="already exists and is public"):
        publish_folder(model, REPO, MARK, private=True)


@pytest.mark.parametrize("repo", ["a/b/c", "org/bert mrpc", "org/--x", "org/a..b", "org/x.git", "", "org/" + 97 * "x"])
def test_malformed_id(local_hub, model, repo):
    with pytest.raises(UsageError, match="Expected an id such as 'name/bert-mrpc'"):
        publish_folder(model, repo, MARK)
    assert not local_hub.history()


def test_hub_unreachable_or_offline(local_hub, model, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match="Cannot reach http://127.0.0.1:9: "):
        publish_folder(model, REPO, MARK)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE is set"):
        publish_folder(model, REPO, MARK)


def test_response_that_is_not_json(local_hub, model, monkeypatch):
    """The client reads some answers as JSON before it looks at their status."""
    answer_cards(monkeypatch, lambda handler: handler.send(b"<html>", 502))
    with pytest.raises(UsageError, match="The Hub failed at"):
        publish_folder(model, REPO, MARK)
    monkeypatch.setattr("hf_elmix.hub.publish._Repo.check_card", lambda *_: None)
    with pytest.raises(UsageError, match="Cannot reach .*not JSON"):
        publish_folder(model, REPO, MARK)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b'{"errors": [{"message": "\\"license\\" is unknown"}, {"message": "b"}]}', '"license" is unknown; b.'),
        (b"no\nJSON", "no JSON."),
    ],
)
def test_refused_card_changes_nothing_here_or_on_the_hub(local_hub, model, monkeypatch, answer, said):
    before = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    answer_cards(monkeypatch, lambda handler: handler.send(answer, 400))
    with pytest.raises(UsageError) as caught:
        publish_folder(model, REPO, MARK)
    assert str(caught.value).startswith(f"The Hub refuses README.md of {REPO}: {said} Nothing was uploaded")
    assert str(caught.value).endswith(f"type: elmix push FOLDER --hub_id {REPO}")
    assert not local_hub.history()  # no repository either
    assert {path: path.read_bytes() for path in model.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("card", ["---\na: [\n---\n", "---\n- a\n---\n"])
def test_card_with_broken_metadata_is_refused(local_hub, model, card):
    (model / CARD).write_text(card)
    with pytest.raises(UsageError, match="refuses README.md"):
        publish_folder(model, REPO, MARK)
    assert not local_hub.history()


# Claims.


def test_claim_creates_nothing(local_hub, model):
    assert claim_repo("bert-mrpc", MARK) == "tester/bert-mrpc"
    assert not local_hub.history()
    publish_folder(model, "bert-mrpc", MARK, private=True)
    assert HfApi().repo_info("tester/bert-mrpc").private
    assert claim_repo("bert-mrpc", MARK, private=True) == "tester/bert-mrpc"


# The token.


@pytest.mark.parametrize("name", [CARD, "config.json", "model.safetensors"])
def test_file_with_token_is_not_published(local_hub, model, name):
    (model / name).write_text("a" * 5000 + local_hub.token)
    with pytest.raises(UsageError, match=f"{name} contains the access token, so nothing was published") as caught:
        publish_folder(model, REPO, MARK)
    assert local_hub.token not in str(caught.value)
    assert not local_hub.history()
    with pytest.raises(UsageError, match="contains the access token"):
        publish_files({CARD: local_hub.token.encode()}, REPO, MARK)


def parquet(*texts: str) -> bytes:
    out = io.BytesIO()
    pd.DataFrame({"n": range(len(texts)), "text": texts}).to_parquet(out, compression="gzip")
    return out.getvalue()


def escaped(text: str) -> str:
    """A JSON text with each character as its code."""
    return '"' + "".join(f"\\u{ord(sign):04x}" for sign in text) + '"'


@pytest.mark.parametrize("kind", ["table", "JSON in a table", "JSON", "key", "UTF-16", "Markdown"])
def test_token_in_encoded_file_is_found(local_hub, kind):
    token, many = local_hub.token, [f"text {k}" for k in range(500)]
    name, content = {
        "table": ("runs.parquet", parquet(*many, f"{many[-1]} {token}", *many)),
        "JSON in a table": ("runs.parquet", parquet(f'{{"a": [{escaped(token)}]}}')),
        "JSON": ("config.json", f'{{"a": [1, {{"b": {escaped(token)}}}]}}'.encode()),
        "key": ("config.json", f"{{{escaped(token)}: 1}}".encode()),
        "UTF-16": ("config.json", f'["{token}"]'.encode("utf-16")),
        "Markdown": (CARD, token.replace("_", "\\_").encode()),
    }[kind]
    assert token.encode() not in content
    with pytest.raises(UsageError, match=f"{name} contains the access token"):
        publish_files({name: content}, REPO, MARK)
    assert not local_hub.history()


@pytest.mark.parametrize("token", ["hf_" + "aB3" * 11 + "x", "ghp_" + "aB3" * 12, "AKIA" + "AB12" * 4])
def test_what_looks_like_a_token_of_somebody_is_not_published(local_hub, token):
    for name, content in {
        CARD: f"It predicts {token} or b.".replace("_", "\\_").encode(),
        "config.json": json.dumps({"id2label": {"0": token}}).encode(),
        "runs.parquet": parquet("a", json.dumps({"labels": [f"={token}"]})),
    }.items():
        with pytest.raises(UsageError, match=f"{name} contains what looks like an access token, so nothing") as caught:
            publish_files({name: content}, REPO, MARK)
        assert token not in str(caught.value)
    assert not local_hub.history()
    publish_files({CARD: f"{MADE_BY_US}hf_elmix, {'x' * 20}{token}".encode()}, REPO, MARK)  # a part of a longer word


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "model.safetensors"])
def test_link_is_not_published(model, tmp_path, name):
    (tmp_path / "secret").write_text("root:x:0:0")
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(tmp_path / "secret")
    with pytest.raises(UsageError, match=f"{name}' is a link"):
        files_of_model(model)


def test_linked_folder_is_not_published_but_root_may_be_linked(model, tmp_path):
    (model / "notes").symlink_to(tmp_path)
    assert "notes" not in files_of_model(model)
    (tmp_path / "link").symlink_to(model)
    with pytest.raises(UsageError, match="link' is a link"):
        files_of_model(tmp_path / "link")


def test_token_in_response_is_hidden(local_hub, model, monkeypatch):
    from hub_server import HubError

    def repeat(kind, repo_id, private):
        raise HubError(403, f"You sent Bearer {local_hub.token}")

    monkeypatch.setattr(local_hub.store, "create", repeat)
    with pytest.raises(
        UsageError, match=r"does not allow you to write to org/bert-mrpc \(You sent Bearer hf_…\)"
    ) as caught:
        publish_folder(model, REPO, MARK)
    assert local_hub.token not in str(caught.value)
    assert caught.value.__cause__ is None


def test_token_is_in_no_file_or_output(local_hub, model, tmp_path, capfd, caplog):
    caplog.set_level("DEBUG")
    publish_folder(model, REPO, MARK)
    shutil.rmtree(model)
    with pytest.raises(UsageError):
        publish_files({CARD: b"x"}, "other/bert", MARK)
    shown = capfd.readouterr()
    assert local_hub.token not in shown.out + shown.err + caplog.text
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 6
    assert [path for path in files if local_hub.token.encode() in path.read_bytes()] == []
    assert local_hub.token not in json.dumps(local_hub.requests)
