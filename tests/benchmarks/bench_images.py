"""Seconds of processor time that a step of the recipe for CIFAR-100 takes: ResNet20, 128 rows, one core.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_images.py

In single precision and in bfloat16, each with the usual order of memory and the one that `ImageClassifier` uses; and
of changing the images of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F

from hf_elmix.images.augmentation import augment, draw
from hf_elmix.images.models import ImageClassifier
from hf_elmix.images.recipes import recipe_of

ROWS, REPEATS = 128, 10


def seconds(work: Callable[[], object]) -> float:
    """The median processor time of a call."""
    taken = []
    for _ in range(REPEATS + 2):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return median(taken[2:])


def main() -> None:
    """Print a line for each way."""
    torch.set_num_threads(1)
    pixels, labels = torch.randint(0, 256, (ROWS, 3, 32, 32), dtype=torch.uint8), torch.randint(0, 100, (ROWS,))
    numbers, recipe = draw(0, 0, ROWS), recipe_of("cifar100")
    print(f"changing {ROWS} images: {1000 * seconds(lambda: augment(pixels, numbers, recipe)):.1f} ms")
    for bf16 in (False, True):
        for ours in (False, True):
            model = ImageClassifier.seeded(0, 100, "resnet20").train()
            call = model if ours else model.network
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

            def step(call=call, optimizer=optimizer, bf16=bf16, ours=ours) -> None:
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    logits = call(pixels / 255)
                    loss = F.cross_entropy(logits["logits"] if ours else logits, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

            kind = f"{'bfloat16' if bf16 else 'single precision'}, {'channels last' if ours else 'channels first'}"
            print(f"a step in {kind}: {seconds(step):.3f} s")


if __name__ == "__main__":
    main()
