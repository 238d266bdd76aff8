"""``elmix study images``: the paper's studies of images, on any dataset of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from hf_elmix.cli.base import Command, whole_number
from hf_elmix.cli.study import (
    INTERRUPTED,
    add_arguments,
    add_training_flags,
    check_inputs,
    losses_and_arguments,
    run_study,
)
from hf_elmix.images import recipes

__all__ = ["COMMAND"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("images").add_argument
    data = "dataset id, or a folder: like a dataset on the Hub, or with a folder of images for each class"
    add("--dataset_name", required=True, metavar="DATASET", help=data)
    add("--dataset_config_name", metavar="NAME", help="configuration of the dataset")
    split = "split to score (default: validation, valid, val or test; without any, a fifth of the training rows)"
    add("--validation_split_name", metavar="SPLIT", help=split)
    add("--image_column_name", metavar="COLUMN", help="the column of images")
    add("--label_column_name", metavar="COLUMN", help="the column of classes (default: label, labels or fine_label)")
    add("--image_size", type=whole_number(8, 4096), metavar="N", help="make images N x N pixels")
    recipe = "the paper's training: epochs, learning rates, augmentation, architectures (default: cifar100)"
    add("--recipe", choices=recipes.RECIPES, default="cifar100", help=recipe)
    models = f"architectures, each a task: {', '.join(recipes.ARCHITECTURES)} (default: those of the recipe)"
    add("--models", nargs="+", choices=recipes.ARCHITECTURES, metavar="MODEL", help=models)
    more = "regularization on top of the recipe, as in the paper's Table 6"
    add("--regularization", nargs="+", choices=recipes.REGULARIZATION, default=[], help=more)
    add_arguments(parser, seeds=recipes.SEEDS, losses=recipes.LOSSES)


def _run(args: argparse.Namespace) -> int:
    """Compare losses on images, with the paper's recipes and architectures.

    Each architecture is a task. The same command continues a study that was stopped. Flags of
    transformers.TrainingArguments, such as --num_train_epochs and --bf16, are also accepted: the drops of the learning
    rate move along with the number of epochs, and --lr_scheduler_type replaces them.
    """
    recipe = recipes.recipe_of(args.recipe, regularization=args.regularization, size=args.image_size)
    losses, arguments = losses_and_arguments(args, "elmix study images", recipe.arguments, recipes.LOSSES)
    check_inputs(args.output_dir, dataset_name=args.dataset_name)
    from hf_elmix.images.data import read_images
    from hf_elmix.images.study import images_study
    from hf_elmix.text.rows import read_dataset

    images = read_images(
        read_dataset(args.dataset_name, args.dataset_config_name),
        Path(args.dataset_config_name or args.dataset_name).expanduser().resolve().name,
        split=args.validation_split_name,
        image_column=args.image_column_name,
        label_column=args.label_column_name,
        size=None if recipe.resized_crop else args.image_size,
    )
    return run_study(images_study(images, recipe, args.seeds, losses, args.models or (), arguments), args)


COMMAND = Command(_run, _add_arguments, add_training_flags, extra="images", interrupted=INTERRUPTED)
