"""Changes of images, beside Pillow and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from hf_elmix.images import augmentation as a


@pytest.fixture
def batch() -> torch.Tensor:
    """Four smooth images, (4, 3, 16, 16), uint8."""
    coarse = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 255
    return torch.nn.functional.interpolate(coarse, (16, 16), mode="bilinear").byte()


def numbers(**columns: float) -> torch.Tensor:
    """0.5 everywhere but in the named columns."""
    drawn = torch.full((4, a.NUMBERS), 0.5)
    for name, value in columns.items():
        drawn[:, getattr(a, name)] = value
    return drawn


def pillow(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.byte().permute(1, 2, 0).numpy())


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def test_a_crop_is_the_window_of_an_image_with_a_black_margin(batch):
    drawn = a.draw(0, 0, 4)
    for image, moved, own in zip(batch, a.crop(batch, drawn), drawn, strict=True):
        wide = np.pad(image.numpy(), ((0, 0), (4, 4), (4, 4)))
        top, left = int(own[a.TOP] * 9), int(own[a.LEFT] * 9)
        assert np.array_equal(moved.numpy(), wide[:, top : top + 16, left : left + 16])
    assert torch.equal(a.crop(batch, numbers()), batch)  # in the middle


def test_every_crop_and_every_mirror_comes_up_equally_often():
    drawn = a.draw(3, 7, 9000)
    counts = np.bincount((drawn[:, a.TOP] * 9).long().numpy(), minlength=9)
    assert (abs(counts - 1000) < 5 * 1000**0.5).all()
    mirrored = a.flip(torch.arange(2.0).repeat(9000, 1, 1, 1), drawn)[:, 0, 0, 0].mean()
    assert abs(mirrored - 0.5) < 5 * 0.5 / 9000**0.5


def test_a_mirror_is_pillows(batch):
    assert torch.equal(a.flip(batch, numbers(MIRROR=0.4))[1], pixels(pillow(batch[1]).transpose(0)).byte())
    assert torch.equal(a.flip(batch, numbers(MIRROR=0.6)), batch)


@pytest.mark.parametrize("degrees", [-15.0, 7.5, 90.0])
def test_a_turn_is_pillows(batch, degrees):
    turned = a.rotate(batch.float(), torch.full((4,), degrees))
    expected = pixels(pillow(batch[2]).rotate(degrees, Image.Resampling.BILINEAR))
    inside = slice(4, 12)  # at the edge, Pillow does not blend with the black around
    assert (turned[2] - expected)[:, inside, inside].abs().max() <= 2


def test_a_turn_of_an_oblong_image_keeps_its_shape():
    wide = torch.zeros(1, 1, 20, 40)
    wide[..., 5:15, 15:25] = 255.0
    turned = a.rotate(wide, torch.tensor([90.0]))
    assert abs(turned.sum() / wide.sum() - 1) < 0.01
    assert torch.allclose(turned[..., 5:15, 15:25], wide[..., 5:15, 15:25], atol=1)


@pytest.mark.parametrize(
    ("column", "enhance"),
    [("BRIGHTNESS", ImageEnhance.Brightness), ("CONTRAST", ImageEnhance.Contrast), ("SATURATION", ImageEnhance.Color)],
)
@pytest.mark.parametrize("number", [0.0, 0.9])
def test_jitter_is_pillows(batch, column, enhance, number):
    changed = a.jitter(batch.float(), numbers(**{column: number}), 0.4)
    expected = pixels(enhance(pillow(batch[3])).enhance(1 + 0.4 * (2 * number - 1)))
    assert (changed[3] - expected).abs().max() <= 2


def test_erasing_takes_the_share_of_the_area():
    drawn = a.draw(0, 0, 2000)
    erased = a.erase(torch.ones(2000, 3, 32, 32), drawn, 0.5)
    shares = 1 - erased.mean((1, 2, 3))
    assert abs((shares > 0).float().mean() - 0.5) < 5 * 0.5 / 2000**0.5
    assert torch.equal(erased[:, 0], erased[:, 2])
    expected = a.ERASED[0] + drawn[:, a.ERASED_SHARE] * (a.ERASED[1] - a.ERASED[0])
    gone = shares > 0
    # A rectangle that would be longer than a side is cut, the others are rounded to whole pixels.
    assert (shares[gone] < expected[gone] + 0.05).all()
    assert abs((shares[gone] - expected[gone]).median()) < 0.01


def test_a_resized_crop_is_pillows(batch):
    large = torch.nn.functional.interpolate(batch.float(), (60, 80), mode="bilinear").byte()
    drawn = numbers(SHARE=0.2, SHAPE=0.8, TOP=0.3, LEFT=0.7)
    area = (0.08 + 0.2 * 0.92) * 60 * 80
    aspect = (3 / 4) * (16 / 9) ** 0.8
    tall, wide = round((area / aspect) ** 0.5), round((area * aspect) ** 0.5)
    top, left = int(0.3 * (60 - tall + 1)), int(0.7 * (80 - wide + 1))
    box = (left, top, left + wide, top + tall)
    expected = pixels(pillow(large[0]).crop(box).resize((24, 24), Image.Resampling.BILINEAR))
    assert (a.resized_crop(large, drawn, 24)[0] - expected).abs().max() <= 1


def test_the_centre_is_pillows(batch):
    oblong = torch.nn.functional.interpolate(batch.float(), (64, 128), mode="bilinear").byte()
    resized = pillow(oblong[0]).resize((512, 256), Image.Resampling.BILINEAR)
    expected = pixels(resized.crop((144, 16, 368, 240)))
    assert (a.centre(oblong, 224)[0] - expected).abs().max() <= 1
