"""The `score` command, for millions of images."""

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
@click.option("--column", default="image", show_default=True, help="Parquet column of the images.")
@click.option("--id", "key", help="Parquet column of their names.  [default: id or path, if any]")
@click.option("--workers", type=click.IntRange(1), help="Worker processes.  [default: one per CPU]")
@click.option(
    "--engine",
    type=click.Choice(["processes", "ray"]),
    default="processes",
    show_default=True,
    help="Run workers as local processes or on Ray (the cluster at RAY_ADDRESS, if set).",
)
@click.option(
    "--part-size",
    type=click.IntRange(1),
    metavar="N",
    help="Images per output file.  [default: 1,024 to 65,536]",
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
    """Classify millions of images and write the predictions to Parquet.

    INPUT is a Parquet file, a folder of Parquet files, or a folder of pictures. In Parquet, images
    are encoded pictures (PNG, JPEG, ...), structs with such `bytes`, or 784 pixels as in MNIST.

    OUTPUT is a folder of Parquet files with each image's name, label, probability of each label,
    and warning. To resume an interrupted run, repeat the command. If an image cannot be read, its
    warning says why and the exit code is 1.
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
