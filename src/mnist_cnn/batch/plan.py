"""Classify millions of images into a Parquet dataset, by several processes or on a cluster.

The input is divided, in order, into parts of a fixed number of images. Each part is processed
independently, written to a temporary file, and renamed. Its bytes therefore depend only on the
input and the model, not on the workers or on interruptions.
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
from mnist_cnn.core.location import DEFAULT_MODEL
from mnist_cnn.reader.recognizer import Recognizer

Engine = Literal["processes", "ray"]

# Readers of Parquet datasets skip names that start with an underscore.
MANIFEST = "_manifest.json"
FINISHED = "_SUCCESS"


@dataclass(frozen=True)
class Summary:
    """Counts of a finished run; `unreadable` is the number of images that could not be read."""

    images: int
    unreadable: int
    parts: int
    kept: int  # parts reused from an earlier run


# Runs tasks on a number of workers (None: one per CPU); yields each finished task's image count.
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
    """Classify all images of `source` and write Parquet files to the folder `output`.

    Finished parts of an earlier run are reused.

    Args:
        source: a Parquet file, a folder of Parquet files, or a folder of pictures.
        output: a new or empty folder, or the output of an earlier run.
        model: an ONNX file made by the pipeline; by default the packaged one.
        column: the Parquet column of the images.
        key: the Parquet column of their keys; by default `id` or `path`, else the row number.
        size: images per part; by default 1,024 to 65,536.
        workers: number of worker processes; by default one per CPU.
        engine: how to run the workers.

    Raises:
        MnistCnnError: if `source` or the model cannot be used, a Parquet file is damaged, `output`
            holds something else or is being written, or a package is missing.
        OSError: if `output` cannot be written.
    """
    run = _engine(engine)
    path = DEFAULT_MODEL if model is None else model
    Recognizer(path)  # fails now if the model would fail in the workers
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
    """Run those of `tasks` whose part is missing or damaged; summarize all."""
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
    """Lock `output` or fail; the system releases the lock however the process ends."""
    output.mkdir(parents=True, exist_ok=True)
    folder = os.open(output, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems do not support locks
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise MnistCnnError(f"{output} is being written by another run") from None
        yield
    finally:
        os.close(folder)


def _begin(output: Path, manifest: dict[str, Any]) -> None:
    """Start a run in `output`, or resume one with the same `manifest`."""
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
    shutil.rmtree(output / TEMPORARY, ignore_errors=True)  # left by a killed run


def _read_all(done: Generator[int, None, None], images: int, missing: int) -> None:
    with (
        closing(done),  # stops the workers if anything fails here
        tqdm(
            total=images, initial=images - missing, unit="image", unit_scale=True, disable=None
        ) as progress,
    ):
        for count in done:
            progress.update(count)
