"""The command that reads millions of images: `score`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mnist_cnn.cli.options import MODEL, examples
from mnist_cnn.core.errors import MnistCnnError

if TYPE_CHECKING:
    from mnist_cnn.batch.plan import Engine


@click.command(
    epilog=examples(
        "mnist-cnn score scans/ readings",
        "mnist-cnn score digits.parquet readings --column pixels --id number",
        "mnist-cnn score digits/ readings --engine ray",
    )
)
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUTPUT", type=click.Path(path_type=Path, file_okay=False))
@click.option("--column", default="image", show_default=True, help="Of the images, in Parquet.")
@click.option("--id", "key", help="The column that names them.  [default: id or path, if there]")
@click.option("--workers", type=click.IntRange(1), help="At once.  [default: one a processor]")
@click.option(
    "--engine",
    type=click.Choice(["processes", "ray"]),
    default="processes",
    show_default=True,
    help="What runs the workers; ray, on a cluster if RAY_ADDRESS names one.",
)
@click.option(
    "--part-size",
    type=click.IntRange(1),
    metavar="N",
    help="Images in one file.  [default: 1,024 to 65,536]",
)
@MODEL
def score(
    source: Path,
    output: Path,
    column: str,
    key: str | None,
    workers: int | None,
    engine: "Engine",
    part_size: int | None,
    model: Path | None,
) -> None:
    """Read millions of images into Parquet.

    INPUT is a Parquet file, a folder of such, or a folder of pictures. In Parquet, images are
    encoded pictures (PNG, JPEG, ...), structs with such `bytes`, or 784 pixels as MNIST's.

    OUTPUT is a folder of Parquet files: what names the image, its label, the probability of each
    label, and a warning. Stopped at any moment, the same command resumes. What cannot be read has
    a warning that says why, and makes the exit code 1.
    """
    from mnist_cnn.batch.plan import score as score_all

    summary = score_all(
        source,
        output,
        model=model,
        column=column,
        key=key,
        size=part_size,
        workers=workers,
        engine=engine,
    )
    kept = f" ({summary.kept:,} of them kept)" if summary.kept else ""
    click.echo(f"{output}: images: {summary.images:,}, parts: {summary.parts:,}{kept}")
    if summary.unreadable:
        raise MnistCnnError(
            f"{summary.unreadable:,} of {summary.images:,} images could not be read; in {output}, "
            "their warnings say why"
        )
