"""``elmix study images``, as a user meets it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_elmix.cli.main import main
from hf_elmix.study.store import Store


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twelve images in folders of two classes."""
    place = tmp_path_factory.mktemp("data") / "pets"
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (place / name).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / name / f"{number}.png")
    return place


def study(folder: Path, out: Path, *words: str) -> int:
    return main(["study", "images", "--dataset_name", str(folder), "--output_dir", str(out), *words])


def test_a_study_of_ones_own_images(folder, tmp_path, capsys):
    few = ("--models", "resnet20", "--losses", "ce", "--seeds", "3", "--num_train_epochs", "2", "--use_cpu")
    more = ("--recipe", "cinic10", "--regularization", "erasing", "dropout", "--cohorts", "--bf16")
    assert study(folder, tmp_path / "runs", *few, *more) == 0
    assert "1 done" in capsys.readouterr().out
    (record,) = Store(tmp_path / "runs").records()
    assert (record.key.task, record.key.seed, record.status) == ("pets-resnet20", 3, "done")
    assert record.settings["arguments"]["optim_args"] == "momentum=0.9"
    assert record.settings["images"] == {
        **{"classes": 2, "shape": [3, 8, 8], "size": None, "resized_crop": False},
        **{"rotation": 0.0, "erasing": 0.5, "jitter": 0.0, "dropout": 0.2},
    }
    assert record.provenance["data_rows"] == {"train": 9, "held out": 3}
    assert record.provenance["versions"]["pytorchcv"]
    assert list((tmp_path / "runs").rglob("predictions.safetensors"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset_name", "./nowhere"], "Cannot load './nowhere'"),
        (["--models", "resnet21"], "Did you mean"),
        (["--recipe", "cifar10"], "Did you mean 'cifar100'?"),
        (["--regularization", "no_rotation"], "The recipe 'cifar100' rotates no images. Leave no_rotation out."),
        (["--validation_split_name", "dev"], "but got 'dev'. It has none besides train."),
        (["--image_column_name", "photo"], "Expected a column 'photo' in pets"),
        (["--image_size", "4"], "--image_size"),
        (["--losses", "fokal"], "Did you mean 'focal"),
        (["--output_dir", "."], "Expected --dataset_name outside of --output_dir"),
        (["--seed", "1"], "type --seeds"),
    ],
)
def test_mistakes_are_one_line(folder, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(folder.parent)
    assert main(["study", "images", "--dataset_name", "pets", "--output_dir", str(tmp_path / "runs"), *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


def test_images_of_different_sizes_need_one(folder, tmp_path, capsys):
    odd = tmp_path / "odd"
    for name in ("cat", "dog"):
        (odd / name).mkdir(parents=True)
        for number in range(6):
            Image.open(folder / name / f"{number}.png").resize((8, 8 + number)).save(odd / name / f"{number}.png")
    few = ("--models", "resnet20", "--losses", "ce", "--seeds", "0", "--max_steps", "1", "--use_cpu")
    assert study(odd, tmp_path / "runs", *few) == 2
    said = capsys.readouterr().err
    assert "Expected images of one size, but got 8 x 8 and 8 x 13 pixels. Type --image_size" in said
    assert study(odd, tmp_path / "runs", *few, "--image_size", "8") == 0
