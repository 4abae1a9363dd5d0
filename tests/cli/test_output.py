import csv
import json
from dataclasses import replace

import pytest

from mnist_cnn.cli.output import Form, Listing
from mnist_cnn.imaging.box import Box
from mnist_cnn.reader.recognizer import NO_INK, Prediction

NAME = "a, b.png"
SEVEN = Prediction("7", 0.75, {"1": 0.25, "7": 0.75}, None, None, source=NAME)
BLANK = Prediction(None, 0.0, {}, NO_INK, None, source=NAME)
BOXED = replace(SEVEN, box=Box(1, 2, 30, 40), line=2)


def listed(form: Form, *predictions: Prediction, top: int | None = None) -> list[str]:
    listing = Listing(form, top)
    return [line for prediction in predictions for line in listing.lines(prediction)]


def test_a_table_has_its_columns_below_one_header() -> None:
    lines = listed("table", SEVEN, BLANK)
    assert [line.split() for line in lines] == [
        ["label", "probability", "warning", "picture"],
        ["7", "75.00", "%", "a,", "b.png"],
        ["-", *NO_INK.split(), "a,", "b.png"],
    ]
    assert lines[0].index("picture") == lines[1].index(NAME) == lines[2].index(NAME)


def test_csv_is_read_back_by_any_reader() -> None:
    seven, blank = csv.DictReader(listed("csv", SEVEN, BLANK, top=2))
    likeliest = {"label": "7", "probability": "0.75", "label_2": "1", "probability_2": "0.25"}
    assert seven == {**likeliest, "warning": "", "picture": NAME}
    assert (blank["label"], blank["warning"]) == ("", NO_INK)


def test_json_is_one_object_in_a_line_with_all_probabilities() -> None:
    seven, blank = map(json.loads, listed("json", SEVEN, BLANK))
    assert seven == {
        "picture": NAME,
        "label": "7",
        "probability": 0.75,
        "probabilities": {"1": 0.25, "7": 0.75},
        "warning": None,
    }
    assert (blank["label"], blank["warning"]) == (None, NO_INK)


def test_the_number_of_labels_counts_for_json_too() -> None:
    (line,) = listed("json", SEVEN, top=1)
    assert json.loads(line)["probabilities"] == {"7": 0.75}


def test_control_characters_of_a_name_do_not_reach_the_terminal() -> None:
    _, line = listed("table", replace(SEVEN, source="two\nlines\x1b[31m, red \u00e4.png"))
    assert line.endswith("two\\nlines\\x1b[31m, red \u00e4.png")


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_a_box_is_listed_with_its_line(form: Form) -> None:
    *_, line = listed(form, BOXED)
    for number in ("1", "2", "30", "40"):
        assert number in line
