"""The recipes that ship and those that pages show name trainers that there are, and settings that these know."""

import re
from pathlib import Path

import pytest

from xbench.errors import XbenchError
from xbench.train import recipes

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def test_recipes_that_ship_are_valid():
    assert "scenes_resnet" in recipes.recipes()
    for name in recipes.recipes():
        assert recipes.load(recipes.find(name)).name == name
    with pytest.raises(XbenchError, match="unknown recipe 'scenes_resne'; did you mean 'scenes_resnet'"):
        recipes.find("scenes_resne")


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree")
def test_the_recipe_of_the_page_is_valid(tmp_path):
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "my_recipe.toml").write_text(text)
    assert recipes.load(tmp_path / "my_recipe.toml").network.arguments == {"channels": [24, 48, 96, 192]}
