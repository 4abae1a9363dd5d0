from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import load_yaml
from dvc.utils.serialize._yaml import YAMLFileCorruptedError
from hypothesis import given
from hypothesis import strategies as st

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.pipeline.params import find_problems, load_params
from mnist_cnn_train.pipeline.yaml_file import read_yaml

LINES = (Path(__file__).parents[2] / "params.yaml").read_text().splitlines()
# Each setting's line, up to its value.
SETTINGS = {
    place: line[: line.index(": ") + 2]
    for place, line in enumerate(LINES)
    if ": " in line and not line.strip().startswith(("#", "-")) and ": #" not in line
}
SCALARS = st.one_of(
    st.from_regex(r"[-+]?[0-9_]{1,4}(\.[0-9_]{0,3})?([eE][-+]?[0-9]{1,2})?", fullmatch=True),
    st.from_regex(r"[-+]?\.[0-9_]{1,3}([eE][-+]?[0-9])?", fullmatch=True),
    st.from_regex(r"[-+]?0[box]?[0-9a-fA-F_]{1,3}", fullmatch=True),
    st.from_regex(r"[-+]?[0-9]{1,2}(:[0-5]?[0-9]){1,2}(\.[0-9_]*)?", fullmatch=True),
    st.from_regex(r"20[0-9]{2}-[01][0-9]-[0-3][0-9]([Tt ][0-9]{2}:00:00Z?)?", fullmatch=True),
    st.sampled_from(
        ["true", "yes", "on", "y", "no", "off", "null", "none", "~", "", "=", "<<"]
    ).flatmap(lambda word: st.sampled_from([word, word.title(), word.upper()])),
    st.sampled_from([".inf", "-.Inf", "+.INF", ".nan", ".NaN", "inf", "nan", "base", "9", "5."]),
    st.text("0123456789_.:-+eExobtTrue~", max_size=6),
)
QUOTED = st.one_of(SCALARS, SCALARS.map(lambda text: f'"{text}"'), SCALARS.map(repr))


def dvc_reads(path: Path) -> Any:
    """What DVC reads from a file, or None if it cannot."""
    try:
        return load_yaml(str(path))
    except (YAMLFileCorruptedError, ValueError):  # ValueError: no date, no integer
        return None


def write_with(line: str, place: int, folder: Path) -> Path:
    """The project's settings, with another `line` at `place`."""
    path = folder / "read_by_both.yaml"
    path.write_text("\n".join([*LINES[:place], line, *LINES[place + 1 :]]))
    return path


@pytest.mark.fuzz
@given(place=st.sampled_from(sorted(SETTINGS)), value=QUOTED)
def test_a_value_is_accepted_as_dvc_reads_it_or_refused(
    place: int, value: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write_with(f"{SETTINGS[place]}{value}", place, tmp_path_factory.getbasetemp())
    tracked = dvc_reads(path)
    try:
        load_params(path)
    except MnistCnnError:
        assert tracked is None or find_problems(tracked)
    else:
        assert tracked is None or repr(read_yaml(path)) == repr(tracked)


PLAIN = """._1 1e-3 1e3 1.e3 1E+3 .5 .5e-1 .5e1 0.1_5 1_000 010 08 0x1F 0o17 -0b11 +5 0. 007.5
true False yes Off ~ Null 1:30 .inf '1e-3' "010" "true" """


@pytest.mark.parametrize("text", [*PLAIN.split(), "", "&a 3", "[1e-3, on]", "{a: 1e-3, 2: NULL}"])
def test_a_scalar_has_the_value_and_the_type_that_dvc_reads(text: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"train: {text}\n")
    assert repr(read_yaml(path)) == repr(load_yaml(str(path)))


@pytest.mark.fault
@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("  epochs: 2026-01-01", "'2026-01-01'; input should be a valid integer"),
        ("  <<: {epochs: 18}", "{'epochs': 18}; unknown key, known here: device, threads"),
    ],
)
def test_what_dvc_reads_otherwise_is_refused(line: str, problem: str, tmp_path: Path) -> None:
    (place,) = (place for place, start in SETTINGS.items() if start == "  epochs: ")
    path = write_with(line, place, tmp_path)
    with pytest.raises(MnistCnnError) as refusal:
        load_params(path)
    assert f"train.{line.strip().split(':')[0]}: {problem}" in str(refusal.value)
    assert load_yaml(str(path))
