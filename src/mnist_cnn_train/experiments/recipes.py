"""The recipes in recipes.yaml."""

from pathlib import Path

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.experiments.dvc import Setting
from mnist_cnn_train.pipeline.params import read_yaml

Recipes = dict[str, dict[str, Setting]]


def read_recipes(path: Path, group: str) -> Recipes:
    """Read one group of recipes from `path`, each as its changes to params.yaml.

    Raises:
        MnistCnnError: if the file or group is missing, or does not map names to settings.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or group not in content:
        known = ", ".join(content) if isinstance(content, dict) else "none"
        raise MnistCnnError(f"{path} has no group {group!r}; known: {known}")
    recipes: Recipes = {}
    if not isinstance(content[group], dict):
        raise MnistCnnError(f"{path}: {group} should map names to recipes")
    for name, changes in content[group].items():
        if not isinstance(changes, dict) or not all(
            isinstance(value, Setting) for value in changes.values()
        ):
            raise MnistCnnError(f"{path}: {group}.{name} should map dotted keys to settings")
        recipes[name] = dict(changes)
    return recipes
