"""The recipes are those of the paper, and names that do not exist are refused."""

from __future__ import annotations

from fractions import Fraction

import pytest

from hf_elmix.errors import UsageError
from hf_elmix.images.recipes import RECIPES, recipe_of


def test_epochs_and_drops_are_the_papers():
    """Sections Recognition in CIFAR100 and CINIC10, ImageNet, Comparison with COT."""
    stated = {"cifar100": (240, (120, 160, 200)), "cinic10": (90, (30, 60)), "imagenet": (90, (30, 60))}
    stated |= {"cot": (200, (100, 150)), "motivating": (90, (30, 60))}
    assert {name: (recipe.epochs, recipe.drops) for name, recipe in RECIPES.items()} == stated
    assert recipe_of("cifar100").shares == (Fraction(1, 2), Fraction(2, 3), Fraction(5, 6))
    for recipe in RECIPES.values():
        wanted = {"learning_rate": 0.1, "optim": "sgd", "optim_args": "momentum=0.9", "weight_decay": 1e-4}
        assert wanted.items() <= recipe.arguments.items()


def test_table_6_is_the_recipe_of_cinic10_and_more():
    recipe = recipe_of("cinic10", regularization=("erasing", "no_rotation", "dropout"), size=48)
    assert (recipe.erasing, recipe.rotation, recipe.dropout, recipe.jitter) == (0.5, 0.0, 0.2, 0.0)
    assert (recipe.size, recipe.epochs) == (48, 90)
    assert recipe_of("imagenet").size == 224


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("cifar10", (), "Did you mean 'cifar100'?"),
        ("cinic10", ("jiter",), "Did you mean 'jitter'?"),
        ("cifar100", ("no_rotation",), "rotates no images. Leave no_rotation out."),
    ],
)
def test_what_does_not_exist_is_refused(name, more, message):
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        recipe_of(name, regularization=more)
