"""Random changes of training images, a batch at a time.

Every image gets its own numbers, which follow from the seed, the epoch and its row alone. So images are changed
alike by every method, in a training that continues from a checkpoint, and in both steps that complement objective
training takes with a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_elmix.images.recipes import Recipe

__all__ = ["augment", "centre", "crop", "draw", "erase", "flip", "jitter", "resized_crop", "rotate"]

MARGIN = 4  # pixels by which an image is moved at most
GREY = (0.299, 0.587, 0.114)  # of ITU-R BT.601, as in Pillow
AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)  # of a resized crop, as in PyTorch's script for ImageNet
ERASED, ERASED_ASPECT = (0.02, 0.4), (0.3, 1 / 0.3)  # Random Erasing, Zhong et al.
CENTRE = 256 / 224  # shorter side of an image that is evaluated, by the side of its central part

# Which number of an image is used for what.
TOP, LEFT, SHARE, SHAPE, MIRROR, ANGLE, BRIGHTNESS, CONTRAST, SATURATION = range(9)
WHETHER, DOWN, ACROSS, ERASED_SHARE, ERASED_SHAPE = range(9, 14)
NUMBERS = 14


def draw(seed: int, epoch: int, rows: int) -> Tensor:
    """Numbers in [0, 1) for every row, (rows, 14), float32."""
    return torch.from_numpy(np.random.default_rng((seed, epoch)).random((rows, NUMBERS), dtype=np.float32))


def augment(images: Sequence[Tensor] | Tensor, numbers: Tensor, recipe: Recipe) -> Tensor:
    """Change training images at random, but do not erase, which comes after normalization.

    Args:
        images: B images, uint8 (3, H, W) each; without a resized crop, one tensor (B, 3, H, W).
        numbers: In [0, 1), (B, 14); see `draw`.
        recipe: What to change.

    Returns:
        Shape (B, 3, H, W), float32 in [0, 255].
    """
    if recipe.resized_crop:
        assert recipe.size is not None, "the recipe says how large"
        changed = resized_crop(images, numbers, recipe.size)
    else:
        assert isinstance(images, Tensor), "without a resized crop, all have one size"
        changed = crop(images, numbers).float()
    changed = flip(changed, numbers)
    if recipe.rotation:
        changed = rotate(changed, (2 * numbers[:, ANGLE] - 1) * recipe.rotation)
    return jitter(changed, numbers, recipe.jitter) if recipe.jitter else changed


def crop(images: Tensor, numbers: Tensor) -> Tensor:
    """Move images (B, 3, H, W) by up to four pixels in both directions; what comes in is black."""
    count, _, height, width = images.shape
    padded = F.pad(images, (MARGIN,) * 4).permute(0, 2, 3, 1)
    top, left = ((numbers[:, place] * (2 * MARGIN + 1)).long() for place in (TOP, LEFT))
    down = (top[:, None] + torch.arange(height))[:, :, None]
    across = (left[:, None] + torch.arange(width))[:, None, :]
    return padded[torch.arange(count)[:, None, None], down, across].permute(0, 3, 1, 2)


def flip(images: Tensor, numbers: Tensor) -> Tensor:
    """Mirror half of the images (B, 3, H, W)."""
    return torch.where((numbers[:, MIRROR] < 0.5)[:, None, None, None], images.flip(-1), images)


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn images (B, 3, H, W) anticlockwise by degrees (B,), between pixels linearly; corners become black."""
    angle = torch.deg2rad(degrees)
    height, width = images.shape[-2:]
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rows = (torch.stack((cos, -sin * height / width, zero), -1), torch.stack((sin * width / height, cos, zero), -1))
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def jitter(images: Tensor, numbers: Tensor, size: float) -> Tensor:
    """Change brightness, contrast and saturation of images (B, 3, H, W) in [0, 255] by factors from 1 ± `size`."""
    weights = torch.tensor(GREY)[:, None, None]
    for place in (BRIGHTNESS, CONTRAST, SATURATION):
        factor = (1 + size * (2 * numbers[:, place] - 1))[:, None, None, None]
        grey = (images * weights).sum(1, keepdim=True)
        base = {BRIGHTNESS: torch.zeros(()), CONTRAST: grey.mean((2, 3), keepdim=True), SATURATION: grey}[place]
        images = (base + factor * (images - base)).clamp(0, 255)
    return images


def erase(images: Tensor, numbers: Tensor, probability: float) -> Tensor:
    """Set a random rectangle of some images (B, 3, H, W) to 0, the mean of normalized pixels."""
    height, width = images.shape[-2:]
    area = (ERASED[0] + numbers[:, ERASED_SHARE] * (ERASED[1] - ERASED[0])) * height * width
    aspect = _log_uniform(numbers[:, ERASED_SHAPE], ERASED_ASPECT)
    tall, wide = ((area * aspect).sqrt().clamp(max=height), (area / aspect).sqrt().clamp(max=width))
    inside = [
        (start <= places) & (places < start + length)
        for start, length, places in (
            ((numbers[:, DOWN] * (height - tall))[:, None], tall[:, None], torch.arange(height) + 0.5),
            ((numbers[:, ACROSS] * (width - wide))[:, None], wide[:, None], torch.arange(width) + 0.5),
        )
    ]
    mask = inside[0][:, :, None] & inside[1][:, None, :] & (numbers[:, WHETHER] < probability)[:, None, None]
    return images.masked_fill(mask[:, None], 0.0)


def resized_crop(images: Sequence[Tensor] | Tensor, numbers: Tensor, size: int) -> Tensor:
    """A random part of each image, (B, 3, size, size); its area and shape are those of PyTorch's script."""
    parts = []
    for image, own in zip(images, numbers, strict=True):
        height, width = image.shape[-2:]
        area = (AREA[0] + own[SHARE].item() * (AREA[1] - AREA[0])) * height * width
        aspect = _log_uniform(own[SHAPE], ASPECT).item()
        tall = min(height, max(1, round(math.sqrt(area / aspect))))
        wide = min(width, max(1, round(math.sqrt(area * aspect))))
        top, left = int(own[TOP].item() * (height - tall + 1)), int(own[LEFT].item() * (width - wide + 1))
        parts.append(_resized(image[:, top : top + tall, left : left + wide], size, size))
    return torch.stack(parts)


def centre(images: Sequence[Tensor] | Tensor, size: int) -> Tensor:
    """The central part of each image, (B, 3, size, size), after its shorter side got `size` x 256 / 224 pixels."""
    parts = []
    for image in images:
        height, width = image.shape[-2:]
        factor = CENTRE * size / min(height, width)
        whole = _resized(image, max(size, round(height * factor)), max(size, round(width * factor)))
        top, left = (whole.shape[-2] - size) // 2, (whole.shape[-1] - size) // 2
        parts.append(whole[:, top : top + size, left : left + size])
    return torch.stack(parts)


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(image[None].float(), (height, width), mode="bilinear", antialias=True)[0]


def _log_uniform(numbers: Tensor, bounds: tuple[float, float]) -> Tensor:
    low, high = map(math.log, bounds)
    return (low + numbers * (high - low)).exp()
