"""The `predict` and `read` commands, for a few pictures."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mnist_cnn.cli.options import MODEL, PICTURE_PATH, escaped, examples, output_format
from mnist_cnn.core.errors import MnistCnnError

if TYPE_CHECKING:
    from mnist_cnn.cli.output import Form, Listing
    from mnist_cnn.imaging.load import PictureError
    from mnist_cnn.reader.recognizer import Recognizer


@click.command(
    epilog=examples(
        "mnist-cnn predict seven.png",
        "mnist-cnn predict --top 3 scans/ 'more/*.jpg'",
        "mnist-cnn predict --csv scans/ > digits.csv",
    )
)
@click.argument("pictures", metavar="PATH...", nargs=-1, required=True, type=PICTURE_PATH)
@output_format
@click.option("--top", type=click.IntRange(1), help="Show the K most likely labels.", metavar="K")
@MODEL
def predict(
    pictures: tuple[str, ...], top: int | None, model: Path | None, form: "Form" = "table"
) -> None:
    """Read pictures of one digit each.

    PATH is a picture, a folder of pictures, a quoted glob pattern, or - for a picture on standard
    input. Pictures that cannot be read are listed last and make the exit code 1.
    """
    from tqdm import tqdm

    from mnist_cnn.cli.output import Listing
    from mnist_cnn.imaging.load import find_pictures
    from mnist_cnn.reader.recognizer import Recognizer

    recognizer = Recognizer(model)
    listing = Listing(form, top and min(top, len(recognizer.labels)))
    names = list(find_pictures(pictures))
    if not names:
        raise MnistCnnError(f"there are no pictures in {', '.join(pictures)}")
    errors: list[PictureError] = []
    # A progress bar is of no use among a few lines.
    hidden = None if len(names) > 100 else True
    with tqdm(total=len(names), unit="picture", disable=hidden, leave=False) as progress:
        for prediction in recognizer.predict_many(map(_picture, names), errors.append):
            progress.update()
            for line in listing.lines(prediction):
                progress.write(line)
    if errors:
        raise MnistCnnError(_summary(errors, len(names)))


@click.command(
    epilog=examples(
        "mnist-cnn read page.jpg",
        "mnist-cnn read --csv pages/ scan.tif",
        "mnist-cnn read --boxes found.png page.jpg",
    )
)
@click.argument("pictures", metavar="PATH...", nargs=-1, required=True, type=PICTURE_PATH)
@click.option(
    "--boxes",
    type=click.Path(path_type=Path),
    help="Write the picture, only one, with boxes to this file.",
)
@output_format
@MODEL
def read(
    pictures: tuple[str, ...], boxes: Path | None, model: Path | None, form: "Form" = "table"
) -> None:
    """Read rows or pages of digits.

    PATH is a picture, a TIFF of several pages, a folder of pictures, a quoted glob pattern, or -
    for a picture on standard input. Pictures that cannot be read are listed last and make the exit
    code 1.
    """
    from mnist_cnn.cli.output import Listing
    from mnist_cnn.imaging.load import PictureError, find_pictures
    from mnist_cnn.reader.recognizer import Recognizer

    recognizer, listing = Recognizer(model), Listing(form)
    names = list(find_pictures(pictures))
    if not names:
        raise MnistCnnError(f"there are no pictures in {', '.join(pictures)}")
    if boxes and len(names) > 1:
        raise click.UsageError("--boxes takes one picture")
    errors: list[PictureError] = []
    for name in names:
        try:
            _read_pages(name, recognizer, listing, boxes)
        except PictureError as error:
            errors.append(error)
    if errors:
        raise MnistCnnError(_line(errors[0]) if len(names) == 1 else _summary(errors, len(names)))


def _read_pages(
    name: str, recognizer: "Recognizer", listing: "Listing", boxes: Path | None
) -> None:
    """Print the predictions for each page of a file, or of standard input."""
    from mnist_cnn.imaging.pages import pages

    given = _picture(name)
    for source, picture in [(name, given)] if isinstance(given, bytes) else pages(given):
        if boxes and source != name:
            raise click.UsageError("--boxes takes one page")
        predictions = recognizer.read(picture, None if name == "-" else source)
        if boxes:
            from mnist_cnn.reader.annotate import draw_boxes

            draw_boxes(given, predictions, boxes)
        for prediction in predictions:
            for line in listing.lines(prediction):
                click.echo(line)
        if not predictions:
            click.echo(f"mnist-cnn: {escaped(source)}: no digits were found", err=True)


def _picture(name: str) -> str | bytes:
    """Return the path `name`, or the content of standard input if it is ``-``."""
    from mnist_cnn.imaging.load import MAX_FILE_BYTES

    if name == "-" and sys.stdin is None:
        raise MnistCnnError("standard input is closed")
    return sys.stdin.buffer.read(MAX_FILE_BYTES + 1) if name == "-" else name


def _summary(errors: Sequence["PictureError"], pictures: int) -> str:
    lines = "".join(f"\n  {_line(error)}" for error in errors)
    return f"{len(errors):,} of {pictures:,} pictures could not be read:{lines}"


def _line(error: "PictureError") -> str:
    return f"{escaped(error.source or 'standard input')}: {error.reason}"
