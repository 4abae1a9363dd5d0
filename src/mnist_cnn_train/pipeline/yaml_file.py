"""Read YAML so that every setting has the same value as with DVC's own parser."""

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from mnist_cnn.core.errors import MnistCnnError


class SettingsLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads a scalar as DVC does, by YAML 1.2, or as a string, which numeric settings refuse."""

    yaml_implicit_resolvers: ClassVar = {
        None: [
            (f"tag:yaml.org,2002:{kind}", re.compile(rf"(?:{form})\Z"))
            for kind, form in (
                ("null", r"~|null|Null|NULL|"),
                ("bool", r"true|True|TRUE|false|False|FALSE"),
                ("int", r"[-+]?(?:0b[01_]+|0o[0-7_]+|0x[\da-fA-F_]+|[0-9][0-9_]*)"),
                ("float", r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?"),
                ("float", r"[-+]?\.[0-9_]+(?:[eE][-+][0-9]+)?"),
                ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"),
            )
        ]
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping; duplicate keys raise an error."""
        content: dict[Any, Any] = super().construct_mapping(node, deep)
        known: set[str] = set()
        for key, _ in node.value:
            if key.value in known:
                problem = f'found duplicate key "{key.value}"'
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            known.add(key.value)
        return content


def _construct_int(_: SettingsLoader, node: yaml.ScalarNode) -> int:
    digits = node.value.replace("_", "")
    return int(digits, 0 if set(digits) & set("box") else 10)


SettingsLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def read_yaml(path: Path) -> Any:
    """Read a settings file at the repository's root.

    Raises:
        MnistCnnError: if the file is missing or is not valid YAML.
    """
    try:
        return parse_yaml(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise MnistCnnError(f"there is no {path} here; run from the repository's root") from None


def parse_yaml(text: str | bytes, name: str) -> Any:
    """Parse the `text` of the YAML file `name`; raises MnistCnnError."""
    try:
        for token in yaml.scan(text, SettingsLoader):
            if isinstance(token, yaml.DirectiveToken | yaml.TagToken):
                problem = "directives and tags are not read"
                raise yaml.constructor.ConstructorError(None, None, problem, token.start_mark)
        return yaml.load(text, SettingsLoader)  # noqa: S506  # a safe one
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: too many digits
        raise MnistCnnError(f"{name} is not valid YAML: {_yaml_problem(error)}") from None


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + " ".join(str(getattr(error, "problem", error)).split())
