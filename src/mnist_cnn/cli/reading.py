"""The commands that read a few pictures: `predict` and `read`."""

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mnist_cnn.cli.options import MODEL, examples, output_format
from mnist_cnn.core.errors import MnistCnnError

if TYPE_CHECKING:
    from mnist_cnn.cli.output import Form
    from mnist_cnn.imaging.load import Gray


@click.command(
    epilog=examples(
        "mnist-cnn predict seven.png",
        "mnist-cnn predict --top 3 scans/ 'more/*.jpg'",
        "mnist-cnn predict --csv scans/ > digits.csv",
    )
)
@click.argument("pictures", metavar="PATH...", nargs=-1, required=True)
@output_format
@click.option("--top", type=click.IntRange(1), default=1, help="List the K likeliest.", metavar="K")
@MODEL
def predict(pictures: tuple[str, ...], form: "Form | None", top: int, model: Path | None) -> None:
    """Read pictures that hold one digit each.

    A PATH is a picture, a folder of pictures, a pattern in quotes, or - for a picture on the
    standard input. What cannot be read is named in the end, and makes the exit code 1.
    """
    from tqdm import tqdm

    from mnist_cnn.cli.output import Listing
    from mnist_cnn.imaging.load import find_pictures
    from mnist_cnn.reader.recognizer import Recognizer

    recognizer = Recognizer(model)
    listing = Listing(form or "table", min(top, len(recognizer.labels)))
    names = list(find_pictures(pictures))
    if not names:
        raise MnistCnnError(f"there are no pictures in {', '.join(pictures)}")
    failures: list[str] = []
    loaded: deque[str] = deque()

    def load() -> Iterator["Gray"]:
        for name, gray in _load_each(names, failures):
            loaded.append(name)
            yield gray

    # The bar would be of no use among a few lines.
    shown = None if len(names) > 100 else True
    with tqdm(total=len(names), unit="picture", disable=shown, leave=False) as progress:
        for prediction in recognizer.predict_many(load()):
            progress.update()
            for line in listing.lines(loaded.popleft(), prediction):
                progress.write(line)
    _report(failures, len(names))


@click.command(
    epilog=examples("mnist-cnn read page.jpg", "mnist-cnn read --boxes found.png page.jpg")
)
@click.argument("picture", metavar="PATH")
@click.option(
    "--boxes", type=click.Path(path_type=Path), help="Draw where each digit was found, into a file."
)
@output_format
@MODEL
def read(picture: str, boxes: Path | None, form: "Form | None", model: Path | None) -> None:
    """Read a row or a page of separate digits.

    PATH is a picture, or - for one on the standard input.
    """
    from mnist_cnn.cli.output import Listing
    from mnist_cnn.reader.recognizer import Recognizer

    source = _standard_input() if picture == "-" else picture
    predictions = Recognizer(model).read(source)
    if boxes:
        from mnist_cnn.reader.annotate import draw_boxes

        draw_boxes(source, predictions, boxes)
    listing = Listing(form or "table")
    for prediction in predictions:
        for line in listing.lines(picture, prediction):
            click.echo(line)
    if not predictions:
        click.echo(f"mnist-cnn: {picture}: no digits were found", err=True)


def _standard_input() -> bytes:
    from mnist_cnn.imaging.load import MAX_FILE_BYTES

    return sys.stdin.buffer.read(MAX_FILE_BYTES + 1)


def _load_each(names: Iterable[str], failures: list[str]) -> Iterator[tuple[str, "Gray"]]:
    """The pictures that can be read; what is wrong with the others is added to `failures`."""
    from mnist_cnn.imaging.load import PictureError, load_gray

    for name in names:
        try:
            gray = load_gray(_standard_input() if name == "-" else name)
        except PictureError as error:
            problem = str(error)
            if name == "-":
                problem = problem.replace("the picture", "standard input", 1)
            failures.append(problem)
        else:
            yield name, gray


def _report(failures: list[str], pictures: int) -> None:
    if failures:
        raise MnistCnnError(
            f"{len(failures):,} of {pictures:,} pictures could not be read:\n  "
            + "\n  ".join(failures)
        )
