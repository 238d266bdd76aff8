from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from hf_elmix.study import provenance
from hf_elmix.study.provenance import software


def test_software_says_versions_commit_and_threads():
    said = software()
    for package in ("torch", "transformers", "datasets"):
        assert said["versions"][package] == version(package)
    command = ["git", "-C", str(Path(provenance.__file__).parent), "rev-parse", "HEAD"]
    git = subprocess.run(command, capture_output=True, text=True)
    assert said["commit"] == (git.stdout.strip() if git.returncode == 0 else None)
    assert said["threads"] == torch.get_num_threads()


def test_a_repository_that_only_contains_the_package_is_not_its_checkout(monkeypatch):
    monkeypatch.setattr(provenance, "CHECKOUT", Path(provenance.__file__).parent)
    assert software.__wrapped__()["commit"] is software.__wrapped__()["dirty"] is None


def test_software_without_git_and_without_a_package(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package"))
    said = software.__wrapped__()
    assert said["commit"] is None
    assert said["versions"]["no-such-package"] is None
    assert said["versions"]["torch"] == version("torch")
