"""Recipes as documents: sizes, and text that is not one."""

import random
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.builder.recipe import Recipe
from signer.errors import DocumentError

EXAMPLE = Path(__file__).parents[3] / "examples/recipes"


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_no_recipe_breaks_the_parser(seed: int) -> None:
    """Mutated recipes are recipes or DocumentErrors."""
    noise = random.Random(seed)
    text = list(EXAMPLE.joinpath("worker.toml").read_text())
    for _ in range(noise.randrange(1, 12)):
        at = noise.randrange(len(text))
        match noise.randrange(3):
            case 0:
                text[at] = chr(noise.choice((0, 10, 34, 61, 91, 93, 0x2028, noise.randrange(32, 127))))
            case 1:
                del text[at : at + noise.randrange(40)]
            case _:
                text[at:at] = text[noise.randrange(len(text)) :][: noise.randrange(60)]
    try:
        recipe = Recipe.parse("".join(text).encode("utf-8", "replace"), "recipe")
    except DocumentError:
        return
    assert recipe.uuid(0) == recipe.uuid(0) != recipe.uuid(0, 0)
