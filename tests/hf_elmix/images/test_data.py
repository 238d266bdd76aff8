"""Images as they are read: kinds of files, columns, splits, and what is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PillowImage

from hf_elmix.errors import UsageError
from hf_elmix.images import data
from hf_elmix.images.data import decode, read_images
from hf_elmix.text.rows import read_dataset


def saved(image: PillowImage.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_grey_and_transparent_images_become_rgb():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for image in (
        PillowImage.fromarray(grey),
        PillowImage.fromarray(np.stack((grey, 255 - grey), -1), "LA"),
        PillowImage.fromarray(np.stack((grey, grey, grey, 255 - grey), -1), "RGBA"),
        PillowImage.fromarray(grey.astype(np.uint16) << 8),  # 16 bits, which Pillow alone would make white
        PillowImage.fromarray(grey).quantize(64),
    ):
        read = decode(saved(image))
        assert read.shape == (3, 8, 8)
        assert read.dtype == torch.uint8
        assert (read - torch.from_numpy(grey.astype(np.int16))).abs().max() <= 1, image.mode


def test_other_kinds_of_files_are_read():
    red = PillowImage.new("RGB", (8, 8), (200, 0, 0))
    for kind, image in {"JPEG": red.convert("CMYK"), "WEBP": red, "BMP": red, "GIF": red}.items():
        read = decode(saved(image, kind)).float().mean((1, 2))
        assert (read - torch.tensor([200.0, 0, 0])).abs().max() < 20, kind


def test_a_photograph_is_upright():
    image = PillowImage.new("RGB", (4, 8))
    exif = PillowImage.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    assert decode(saved(image, "JPEG", exif=exif)).shape == (3, 4, 8)


def test_a_size_keeps_the_central_square():
    image = np.zeros((8, 16, 3), dtype=np.uint8)
    image[:, 4:12] = 255
    assert (decode(saved(PillowImage.fromarray(image)), 8) == 255).all()


def test_splits_columns_and_classes(dataset):
    images = read_images(dataset, "colours")
    assert (len(images.train), len(images.evaluation), images.split) == (40, 9, "test")
    assert images.classes == ("red", "green", "blue")
    expected = np.array(dataset["train"][7]["image"])
    assert np.array_equal(images.train.pixels[7].permute(1, 2, 0), expected)
    assert images.train.labels.tolist() == dataset["train"]["label"][:]
    renamed = DatasetDict({"train": dataset["train"], "val": dataset["test"]})
    renamed = renamed.rename_columns({"image": "img", "label": "fine_label"})
    assert read_images(renamed, "colours").train.digest == images.train.digest
    assert read_images(renamed, "colours").split == "val"
    for names in ({"image": "label", "label": "image"}, {"image": "row", "label": "kind"}):
        odd = read_images(dataset.rename_columns(names), "colours", label_column=names["label"])
        assert odd.train.digest == images.train.digest


def test_a_folder_of_images_by_class_is_divided_alike(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(10):
            pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            PillowImage.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    read = [read_images(read_dataset(str(tmp_path)), "pets") for _ in range(2)]
    assert (len(read[0].train), len(read[0].evaluation), read[0].classes) == (16, 4, ("cat", "dog"))
    assert read[0].evaluation.labels.tolist() == [0, 0, 1, 1]
    assert [images.train.digest for images in read] == [read[0].train.digest] * 2


def test_images_that_do_not_fit_in_memory_are_decoded_when_needed(dataset, monkeypatch):
    kept = read_images(dataset, "colours")
    monkeypatch.setattr(data, "MEMORY", 1000)
    read = read_images(dataset, "colours")
    assert not isinstance(read.train.pixels, torch.Tensor)
    sixth = dataset["train"].cast_column("image", Image(decode=False))[6]["image"]
    other = changed(dataset["train"], 3, image=sixth)
    assert read_images(DatasetDict({**dataset, "train": other}), "colours").train.digest != read.train.digest
    assert all(torch.equal(one, other) for one, other in zip(read.train.pixels, kept.train.pixels, strict=True))


def changed(rows: Dataset, row: int, **values) -> Dataset:
    plain = rows.cast_column("image", Image(decode=False)).to_list()
    plain[row] |= values
    return Dataset.from_list(plain, features=rows.cast_column("image", Image(decode=False)).features)


@pytest.mark.parametrize("cell", [b"text", None, "cut"])
def test_an_image_that_does_not_decode_is_named(dataset, cell):
    plain = dataset["train"].cast_column("image", Image(decode=False))
    data = plain[33]["image"]["bytes"][:200] if cell == "cut" else cell
    rows = changed(dataset["train"], 33, image=None if data is None else {"bytes": data, "path": None})
    broken = DatasetDict({"train": rows.cast_column("image", Image()), "test": dataset["test"]})
    with pytest.raises(UsageError, match="Cannot read the image in row 33 of split 'train' of colours: ") as caught:
        read_images(broken, "colours")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_gone_is_named(tmp_path):
    rows = Dataset.from_dict(
        {"image": [{"bytes": None, "path": str(tmp_path / "gone.png")}] * 4, "label": ["a", "b"] * 2},
        features=Features({"image": Image(), "label": Value("string")}),
    )
    with pytest.raises(UsageError, match="row 0 .*gone.png.* of split 'train'"):
        read_images(DatasetDict({"train": rows, "test": rows}), "gone")


def test_what_cannot_be_used_is_refused(dataset):
    train = dataset["train"]
    words = train.remove_columns("image").add_column("image", ["a"] * len(train))
    one_class = train.filter(lambda label: label == 1, input_columns="label")
    cases = [
        ({"test": train}, {}, "to have the split 'train', but it has only test"),
        ({"train": train}, {"split": "dev"}, "but got 'dev'. It has none besides train."),
        (dict(dataset), {"split": "train"}, "but got 'train'. It has test."),
        ({"train": words}, {}, r"one column of images in colours, but it has none \(all columns: label, im"),
        (dict(dataset), {"image_column": "label"}, "Expected one column of images.*--image_column_name"),
        (dict(dataset), {"image_column": "photo"}, "Expected a column 'photo' in colours, but it has image, label"),
        (dict(dataset), {"label_column": "kind"}, "Expected a column 'kind' in colours.*--label_column_name"),
        (
            {"train": train.remove_columns("label")},
            {},
            "a folder of images for each class, but colours has only image",
        ),
        ({"train": train.rename_column("label", "kind")}, {}, "Expected a column 'label' or 'labels' or 'fine_label'"),
        (dict(dataset), {"label_column": "image"}, "'image' is given for both"),
        ({"train": one_class}, {}, "Expected two classes or more in colours, but all rows are of 'green'"),
        ({"train": train, "test": train.select([])}, {}, "Expected rows in split 'test' of colours, but it is empty"),
        ({"train": train, "test": train.remove_columns("label")}, {}, "Expected a column 'label' in split 'test'"),
        ({"train": train, "test": changed(train, 5, label=-1)}, {}, "split 'test' of colours.*row 5 has '-1'"),
    ]
    for splits, options, message in cases:
        with pytest.raises(UsageError, match=message):
            read_images(DatasetDict(splits), "colours", **options)


def test_a_file_that_is_no_image_is_named(tmp_path, dataset):
    for name, keep in {"cat": 0, "dog": 1}.items():
        (tmp_path / name).mkdir()
        for row in range(5):
            dataset["train"][2 * row + keep]["image"].save(tmp_path / name / f"{row}.png")
    (tmp_path / "dog" / "3.png").write_text("not found")
    with pytest.raises(UsageError, match=r"row 8 \(.*dog.3.png\) of split 'train' of pets: it is not an image. Repl"):
        read_images(read_dataset(str(tmp_path)), "pets")
