"""The pages of a scan: one picture per file, or several in a TIFF."""

from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from mnist_cnn.core.errors import one_line
from mnist_cnn.imaging.formats import BEGINNING_LENGTH, FORMATS, format_of
from mnist_cnn.imaging.load import Picture, PictureError


def pages(path: str) -> Iterator[tuple[str, Picture]]:
    """Yield the name and picture of each page in the file at `path`.

    The pages of a TIFF that has several are named ``scan.tif#page=2``. Use each before the next.

    Raises:
        PictureError: if a page of a TIFF cannot be reached.
    """
    count = _pages_of_tiff(Path(path))
    if count == 1:
        yield path, path
        return
    with Image.open(path, formats=FORMATS) as scan:
        for number in range(count):
            name = f"{path}#page={number + 1}"
            try:
                scan.seek(number)
            except Exception as error:  # on damage, Pillow's plugins may raise anything
                raise PictureError(f"is damaged ({one_line(error)})", name) from None
            yield name, scan


def _pages_of_tiff(path: Path) -> int:
    """Return the number of pages; 1 for other formats, and for what loading it will report."""
    try:
        if not path.is_file():  # a pipe can be read only once
            return 1
        with path.open("rb") as file:
            if format_of(file.read(BEGINNING_LENGTH)) != "TIFF":
                return 1
        with Image.open(path, formats=FORMATS) as scan:
            return int(getattr(scan, "n_frames", 1))
    except Exception:  # as above
        return 1
