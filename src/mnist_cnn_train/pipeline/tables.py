"""CSV files of numbers."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.core.files import write_bytes


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write one line for `header` and one for each of `rows`, with Unix line endings."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def read_columns(path: Path) -> dict[str, list[float]]:
    """Read the columns of a CSV file of numbers, by name; empty fields become NaN.

    Raises:
        MnistCnnError: if the file has no rows, or contains anything but numbers.
        OSError: if the file cannot be read.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        # A field is None if the row is too short, and "" if it is empty.
        columns = {
            name: [math.nan if row[name] == "" else float(row[name]) for row in rows]
            for name in rows[0]
        }
    except (IndexError, TypeError, ValueError):
        raise MnistCnnError(f"{path} is damaged; run `dvc repro`") from None
    return columns
