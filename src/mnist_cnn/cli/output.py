"""Format predictions as lines of text: a table, CSV or JSON."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Literal

from mnist_cnn.cli.options import escaped
from mnist_cnn.reader.recognizer import Prediction

DECIMALS = 6  # of a probability
Form = Literal["table", "csv", "json"]


class Listing:
    """Formats one line per prediction, after a header line in the table and CSV forms."""

    def __init__(self, form: Form, top: int | None = None) -> None:
        """List the `top` most likely labels; by default one, and in JSON all."""
        self._form: Form = form
        self._top = top
        self._begun = False

    def lines(self, prediction: Prediction) -> Iterator[str]:
        """Yield the lines for the prediction of one picture, or of one box in it."""
        if self._form == "json":
            yield json.dumps(_content(prediction, self._top))
            return
        write = _as_csv if self._form == "csv" else _as_table
        row = _row(prediction, self._top or 1)
        if not self._begun:
            self._begun = True
            yield write({column: column for column in row})
        yield write(row)


def _name(prediction: Prediction) -> str:
    return prediction.source or "-"  # the argument that stands for standard input


def _ranked(prediction: Prediction) -> list[tuple[str, float]]:
    return sorted(prediction.probabilities.items(), key=lambda item: item[1], reverse=True)


def _content(prediction: Prediction, top: int | None) -> dict[str, object]:
    listed = prediction.probabilities if top is None else dict(_ranked(prediction)[:top])
    content: dict[str, object] = {
        "picture": _name(prediction),
        "label": prediction.label,
        "probability": round(prediction.probability, DECIMALS),
        "probabilities": {label: round(value, DECIMALS) for label, value in listed.items()},
        "warning": prediction.warning,
    }
    if prediction.box:
        content |= {"line": prediction.line, "box": asdict(prediction.box)}
    if prediction.cell:
        content |= dict(zip(("row", "column"), prediction.cell, strict=True))
    return content


def _row(prediction: Prediction, top: int) -> dict[str, object]:
    ranked = _ranked(prediction)
    row: dict[str, object] = {}
    for place in range(top):
        label, probability = ranked[place] if place < len(ranked) else ("", None)
        suffix = f"_{place + 1}" if place else ""
        row[f"label{suffix}"] = label
        row[f"probability{suffix}"] = probability and round(probability, DECIMALS)
    if prediction.box:
        row |= {"line": prediction.line, **asdict(prediction.box)}
    return row | {"warning": prediction.warning or "", "picture": _name(prediction)}


def _as_csv(row: Mapping[str, object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(row.values())
    return text.getvalue()


def _as_table(row: Mapping[str, object]) -> str:
    cells = []
    for column, value in row.items():
        if column == "picture":
            cells.append(escaped(str(value)))  # the last column, so it may have any length
        elif column == "warning":
            cells.append(f"{value:20}")
        elif isinstance(value, float):
            cells.append(f"{100 * value:.2f} %".rjust(len(column)))
        else:
            cells.append(f"{'-' if value is None else value!s:>{len(column)}}")
    return "  ".join(cells)
