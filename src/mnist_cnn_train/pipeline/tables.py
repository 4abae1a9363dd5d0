"""Tables of figures as CSV files."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.core.files import write_bytes


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write one line for `header` and one for each of `rows`, with Unix line ends."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def read_columns(path: Path) -> dict[str, list[float]]:
    """The columns of a CSV file of numbers, by their names in its header; NaN where one is empty.

    Raises:
        MnistCnnError: the file holds no rows, or something else than numbers.
        OSError: the file cannot be read.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        # Without a value, a row is too short (None) or has an empty field ("").
        columns = {
            name: [math.nan if row[name] == "" else float(row[name]) for row in rows]
            for name in rows[0]
        }
    except (IndexError, TypeError, ValueError):
        raise MnistCnnError(f"{path} is damaged; run `dvc repro`") from None
    return columns
