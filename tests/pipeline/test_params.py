import math
from collections.abc import Callable
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY
from dvc.utils.serialize import load_yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from ruamel.yaml import YAML

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.pipeline.params import RENAMED, Params, changed, load_params

PARAMS = REPOSITORY / "params.yaml"

Content = dict[str, Any]
Problems = Callable[[object], list[str]]


@pytest.fixture
def content() -> Content:
    loaded: Content = YAML(typ="safe").load(PARAMS)
    return loaded


def told(path: Path) -> list[str]:
    """The lines with which `path` is refused."""
    with pytest.raises(MnistCnnError) as refusal:
        load_params(path)
    return str(refusal.value).splitlines()


@pytest.fixture
def problems(tmp_path: Path) -> Problems:
    """The lines with which a content is refused, without the first, which names the file."""

    def found(content: object) -> list[str]:
        path = tmp_path / "params.yaml"
        YAML(typ="safe").dump(content, path)
        first, *lines = told(path)
        assert first.startswith(str(path))
        return [line.strip() for line in lines]

    return found


def leaves(model: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            found += leaves(section, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return found


def test_the_projects_own_settings_are_read_as_dvc_reads_them() -> None:
    read = load_params(PARAMS)
    assert read.model_dump() == load_yaml(str(PARAMS))
    assert isinstance(read.train.learning_rate, float)


def test_a_changed_copy_leaves_the_original_as_it_is(content: Content) -> None:
    epochs = content["train"]["epochs"]
    copy = changed(content, {"train.epochs": 2, "train.augmentation.scale": 0.3})
    assert (copy["train"]["epochs"], copy["train"]["augmentation"]["scale"]) == (2, 0.3)
    assert content["train"]["epochs"] == epochs
    assert copy["model"] == content["model"]


@pytest.mark.fault
@pytest.mark.parametrize("key", leaves(Params))
@pytest.mark.parametrize("value", [None, "nonsense", -1, math.nan, math.inf, 1e300, {}, [], True])
def test_every_setting_refuses_nonsense(
    content: Content, key: str, value: object, problems: Problems
) -> None:
    flags = (
        "data.fonts",
        "model.not_a_digit",
        "train.train_on_validation",
        "evaluate.reader_suite",
    )
    if key in flags and value is True:
        value = 1  # true is no nonsense there
    (problem,) = problems(changed(content, {key: value}))
    assert problem.startswith(f"{key}: {value!r}; ")


@pytest.mark.fault
def test_all_problems_are_told_at_once_each_on_its_line(
    content: Content, problems: Problems
) -> None:
    content["train"]["epoch"] = content["train"].pop("epochs")
    content["train"]["learning_rate"] = 0
    content["evaluate"]["min_accuracy"] = 99.45
    content["data"]["sources"] = ["npm", "ftp"]
    content["data"]["split"]["seed"] = 1.5
    content["model"] = None
    content["sweep"] = {}
    assert problems(content) == [
        "data.sources.1: 'ftp'; string should match pattern '^(torchvision|npm|folder:.+)$'",
        "data.split.seed: 1.5; input should be a valid integer",
        "model: None; input should be a valid dictionary or instance of Model",
        "train.epochs: field required",
        "train.learning_rate: 0; input should be greater than 0",
        "train.epoch: 24; unknown key, do you mean epochs?",
        "evaluate.min_accuracy: 99.45; input should be less than or equal to 1",
        "sweep: {}; unknown key, known here: data, synthesize, model, train, evaluate, export",
    ]


@pytest.mark.fault
@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"train.unaugmented_epochs": 25}, "should be at most 24, which is train.epochs"),
        ({"synthesize.font_digits": 1}, "should be at most 0, unless data.fonts is true"),
        (
            {"synthesize.non_digits": 1, "data.fonts": True},
            "should be at most 0, unless data.fonts and model.not_a_digit are true",
        ),
        ({"evaluate.reader_suite": True}, "should be false, unless data.fonts is true"),
        (
            {"train.threads": 2, "model.dropout": 0.1},
            "should be at most 1, since model.dropout cannot be repeated on several threads",
        ),
        (
            {"data.split.validation_images": 5000, "data.split.train_images": 55_001},
            "should be at most 4999, the images that data.split.train_images leaves",
        ),
        (
            {"train.batch_size": 128, "data.split.train_images": 100},
            "should be at most 100, which is data.split.train_images",
        ),
        ({"train.processes": 2}, "should be at most 1, unless train.launcher is torchrun"),
        (
            {"train.threads": 2, "train.launcher": "torchrun", "train.processes": 2},
            "should be at most 1, with train.launcher torchrun, which computes on one thread in "
            "each process",
        ),
        (
            {"model.dropout": 0.1, "train.launcher": "torchrun"},
            "should be at most 0, with train.launcher torchrun, whose processes' draws cannot be "
            "resumed",
        ),
        (
            {"train.hard_example_fraction": 0.2, "train.launcher": "torchrun"},
            "should be 1, with train.launcher torchrun, whose processes know only their images' "
            "losses",
        ),
        (
            {"data.split.train_images": 60_001},
            "should be at most 60000, which is all that mnist has",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_conflicting_settings_are_refused(
    content: Content, settings: Content, problem: str, problems: Problems
) -> None:
    key, value = next(iter(settings.items()))
    assert problems(changed(content, settings)) == [f"{key}: {value}; {problem}"]


@pytest.mark.fault
def test_all_conflicts_are_told_at_once_by_their_keys(content: Content, problems: Problems) -> None:
    settings = {"train.unaugmented_epochs": 25, "data.split.train_images": 100}
    launched = {"train.launcher": "torchrun", "train.threads": 2, "model.dropout": 0.1}
    lines = problems(changed(content, {**settings, **launched}))
    assert " ".join(line.split(":")[0] for line in lines) == (
        "train.unaugmented_epochs train.batch_size train.threads train.threads model.dropout"
    )


@pytest.mark.parametrize("key", [1, 1.5, None])
def test_a_key_that_is_no_word_is_refused(content: Content, key: Any, problems: Problems) -> None:
    content["train"][key] = content[key] = 2
    problem = f"{key}: {key!r}; keys should be strings"
    assert problems(content) == [f"train.{problem}", problem]


@pytest.mark.fault
@pytest.mark.parametrize("value", [[0] * 1000, {str(n): n for n in range(1000)}])
def test_a_long_value_is_shown_in_a_short_line(
    content: Content, value: object, problems: Problems
) -> None:
    (problem,) = problems(changed(content, {"train.epochs": value}))
    assert len(problem) < 200


@pytest.mark.fault
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "should hold the sections data, synthesize, model, train, evaluate, export"),
        (b"- train", "should hold the sections data, synthesize, model, train, evaluate, export"),
        (b"train: [", "is not valid YAML: line "),
        (b"\xff\xfe\x00", "is not valid YAML"),
        (b"a: \x00", "is not valid YAML"),
        (b"train: 1\ntrain: 2\n", 'line 2, column 1: found duplicate key "train"'),
        (b"b: {a: 1, 'a': 2}", 'line 1, column 11: found duplicate key "a"'),
        (b"? [train]\n: 1", "line 1, column 3: found unhashable key"),
        (b"train: !!int 1", "line 1, column 8: directives and tags are not read"),
        (b"%YAML 1.1\n---\ntrain: 1", "line 1, column 1: directives and tags are not read"),
        (b"train: " + b"9" * 5000, "is not valid YAML: Exceeds the limit"),
        (b"train: " + b"[" * 3000, " maximum "),
    ],
)
def test_a_broken_file_is_refused_in_one_line(text: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(text)
    (line,) = told(path)
    assert message in line


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    assert "run from the repository's root" in told(tmp_path / "params.yaml")[0]


# What a user might write by mistake; GONE and MISSPELT change the key instead.
GONE, MISSPELT = "(gone)", "(misspelt)"
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text("abc .:-#'\"{}[]\n\té", max_size=8),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from("ab"), st.none(), max_size=2),
    st.sampled_from([GONE, MISSPELT]),
)


@pytest.mark.fault
@pytest.mark.fuzz
@given(changes=st.dictionaries(st.sampled_from(leaves(Params)), VALUES, min_size=1, max_size=4))
def test_any_settings_are_read_as_they_are_or_refused_each_problem_by_name(
    changes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = changed(YAML(typ="safe").load(PARAMS), changes)
    for key, value in changes.items():
        *sections, name = key.split(".")
        section = reduce(getitem, sections, content)
        if value in (GONE, MISSPELT):
            del section[name]
        if value == MISSPELT:
            section[f"{name}s"] = value
    path = tmp_path_factory.getbasetemp() / "params.yaml"
    YAML(typ="safe").dump(content, path)
    try:
        read = load_params(path)
    except MnistCnnError as error:
        _, *lines = str(error).splitlines()
        named = {line.strip().split(":")[0] for line in lines}
        assert named
        within = {f"{key}{ending}" for key in changes for ending in ("s", ".0", ".1", ".a", ".b")}
        assert named <= {*leaves(Params), *within}
        assert named >= {key for key, value in changes.items() if value in (GONE, MISSPELT)}
    else:
        assert read.model_dump() == content


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_earlier_name_is_told_the_new_one(
    old: str, new: str, content: Content, problems: Problems
) -> None:
    assert new in leaves(Params)
    expected = f"{old}: 0.5; this setting is now called {new}"
    assert problems(changed(content, {old: 0.5})) == [expected]
