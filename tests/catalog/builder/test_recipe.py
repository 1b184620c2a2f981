"""Recipes as documents: sizes, and text that is not one."""

import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.builder.recipe import Recipe, parse_size
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


@settings(max_examples=300)
@given(st.one_of(st.text(max_size=20), st.from_regex(r"[0-9]{1,20}(B|KiB|MiB|GiB|TiB)", fullmatch=True), st.integers()))
def test_sizes(text: object) -> None:
    """A size is a positive number of bytes, or a ValueError that shows how to write one."""
    if isinstance(text, str) and re.fullmatch(r"[1-9][0-9]{0,13}(B|KiB|MiB|GiB|TiB)", text):
        try:
            assert 1 <= parse_size(text) <= 1 << 46
        except ValueError:
            assert int(re.match("[0-9]+", text)[0]) > 64  # type: ignore[index] # only what is beyond 64 TiB
    else:
        with pytest.raises(ValueError, match="64MiB"):
            parse_size(text)
