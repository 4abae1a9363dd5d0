"""Read millions of images into a Parquet dataset, by several processes or a cluster.

The images are cut into parts, each a fixed number of them in the order of the input. A part is
read on its own, written to a temporary file, and renamed to its place. So its bytes depend on the
input and the model alone: not on who reads it, beside what, or after which interruption.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from mnist_cnn.batch.inputs import Task, find_input, part_size
from mnist_cnn.batch.parts import TEMPORARY, Job, is_done, unreadable_count
from mnist_cnn.batch.processes import by_processes
from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.core.files import sha256, write_json
from mnist_cnn.core.location import default_model
from mnist_cnn.reader.recognizer import Recognizer

Engine = Literal["processes", "ray"]

# Readers of datasets pass over names that begin so.
MANIFEST = "_manifest.json"
FINISHED = "_SUCCESS"


@dataclass(frozen=True)
class Summary:
    """What a finished run has: images, how many of them could not be read, and parts."""

    images: int
    unreadable: int
    parts: int
    kept: int  # of the parts, from an earlier run


# Does tasks by so many workers, None for one on each processor; yields the images in each one done.
Run = Callable[[Job, list[Task], int | None], Generator[int, None, None]]


def score(
    source: Path,
    output: Path,
    *,
    model: Path | None = None,
    column: str = "image",
    key: str | None = None,
    size: int | None = None,
    workers: int | None = None,
    engine: Engine = "processes",
) -> Summary:
    """Read all images of `source` into Parquet files in the folder `output`.

    What an earlier run left there is kept, whether it was finished or killed.

    Args:
        source: a Parquet file, a folder of such, or a folder of pictures.
        output: a folder that is not there or is empty, or that holds what such a call made.
        model: an ONNX file of the pipeline's; by default the package's own.
        column: of the images, for Parquet.
        key: the column that names them; by default `id` or `path`, else the row number.
        size: images in a part; by default 1,024 to 65,536.
        workers: at once; by default one on each processor.
        engine: what runs them.

    Raises:
        MnistCnnError: `source` or the model cannot be used, a Parquet file is damaged, `output`
            holds something else or is being written, or a package is missing.
        OSError: `output` cannot be written.
    """
    run = _engine(engine)
    path = default_model() if model is None else model
    Recognizer(path)  # refuses what the workers would
    if output.resolve().is_relative_to(source.resolve()):
        raise MnistCnnError(
            f"{output} is, or lies in, {source}, which is to be read; choose another"
        )
    job = Job(output.absolute(), path.absolute(), sha256(path))
    found = find_input(source.absolute(), column, key)
    size = size or part_size(found)
    manifest = {"model": job.digest, "part_size": size, "input": found.described()}
    with _exclusive_lock(output):
        _begin(output, manifest)
        return _finish(job, list(found.tasks(size)), run, workers)


def _finish(job: Job, tasks: list[Task], run: Run, workers: int | None) -> Summary:
    """Do those of `tasks` whose part is missing or damaged, and sum up all of them."""
    images = sum(map(len, tasks))
    waiting = [task for task in tasks if not is_done(job, task)]
    if waiting:
        (job.output / FINISHED).unlink(missing_ok=True)
    _read_all(run(job, waiting, workers), images, sum(map(len, waiting)))
    shutil.rmtree(job.output / TEMPORARY, ignore_errors=True)
    (job.output / FINISHED).touch()
    return Summary(
        images=images,
        unreadable=sum(unreadable_count(job.part(task.number)) for task in tasks),
        parts=len(tasks),
        kept=len(tasks) - len(waiting),
    )


def _engine(name: Engine) -> Run:
    if name == "processes":
        return by_processes
    from mnist_cnn.batch.ray import by_ray

    return by_ray


@contextmanager
def _exclusive_lock(output: Path) -> Iterator[None]:
    """Refuse `output` while another run writes to it; however that ends, its lock goes away."""
    output.mkdir(parents=True, exist_ok=True)
    folder = os.open(output, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise MnistCnnError(f"{output} is being written by another run") from None
        yield
    finally:
        os.close(folder)


def _begin(output: Path, manifest: dict[str, Any]) -> None:
    """Begin a run in `output`, or resume one with the same `manifest`."""
    path = output / MANIFEST
    if path.is_file():
        try:
            begun = json.loads(path.read_bytes())
        except ValueError:
            begun = {}
        differing = [name for name in manifest if begun.get(name) != manifest[name]]
        if differing:
            what = " and ".join(differing).replace("_", " ")
            raise MnistCnnError(
                f"{output} was begun with another {what}; choose another output, or remove it"
            )
    elif any(not file.name.endswith(".partial") for file in output.iterdir()):
        raise MnistCnnError(f"{output} holds something else already; choose another output")
    else:
        write_json(path, manifest)
    shutil.rmtree(output / TEMPORARY, ignore_errors=True)  # left by a run that was killed


def _read_all(done: Generator[int, None, None], images: int, missing: int) -> None:
    with (
        closing(done),  # which ends the workers, should anything happen here
        tqdm(
            total=images, initial=images - missing, unit="image", unit_scale=True, disable=None
        ) as progress,
    ):
        for count in done:
            progress.update(count)
