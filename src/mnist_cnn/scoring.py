"""Read millions of images into a Parquet dataset, by several processes or a cluster.

The images are cut into parts, each a fixed number of them in the order of the input. A part is
read by itself, written to a temporary file, and renamed to its place. So its bytes depend on the
input and the model alone: not on who reads it, beside what, or after which interruption.
"""

import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from mnist_cnn.artifacts import sha256, write_bytes, write_json
from mnist_cnn.errors import MnistCnnError
from mnist_cnn.recognizer import NO_INK, Recognizer, default_model
from mnist_cnn.scoring_inputs import Batch, Task, find_input, part_size

Engine = Literal["processes", "ray"]

# Begins a warning where there is no reading at all.
UNREADABLE = "could not be read: "
UNREADABLE_COUNT = b"unreadable"  # of a part, in the metadata of its file

# Readers of datasets pass over names that begin so.
MANIFEST = "_manifest.json"
TEMPORARY = "_temporary"
FINISHED = "_SUCCESS"


@dataclass(frozen=True)
class Job:
    """What all tasks have in common; `digest` is the model's SHA-256."""

    output: Path
    model: Path
    digest: str

    def part(self, number: int) -> Path:
        """Where a part belongs."""
        return self.output / f"part-{number:06}.parquet"


@dataclass(frozen=True)
class Summary:
    """What there is in the end: images, of them those that could not be read, and parts."""

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
    job = Job(output.absolute(), path.absolute(), sha256(path))
    if output.resolve().is_relative_to(source.resolve()):
        raise MnistCnnError(
            f"{output} is, or lies in, {source}, which is to be read; choose another"
        )
    found = find_input(source.absolute(), column, key)
    size = size or part_size(found)
    manifest = {"model": job.digest, "part_size": size, "input": found.described()}
    with _alone(output):
        _begin(output, manifest)
        tasks = list(found.tasks(size))
        waiting = [task for task in tasks if not _is_done(job, task)]
        if waiting:
            (output / FINISHED).unlink(missing_ok=True)
        _read_all(run(job, waiting, workers), len(found), sum(map(len, waiting)))
        shutil.rmtree(output / TEMPORARY, ignore_errors=True)
        (output / FINISHED).touch()
        return Summary(
            images=len(found),
            unreadable=sum(_unreadable(job.part(task.number)) for task in tasks),
            parts=len(tasks),
            kept=len(tasks) - len(waiting),
        )


def _engine(name: Engine) -> Run:
    if name == "processes":
        return by_processes
    from mnist_cnn.scoring_ray import by_ray

    return by_ray


@contextmanager
def _alone(output: Path) -> Iterator[None]:
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
    """Begin a run in `output`, or go on with one of the same `manifest`."""
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


def _is_done(job: Job, task: Task) -> bool:
    try:
        return bool(pq.read_metadata(job.part(task.number)).num_rows == len(task))
    except (pa.ArrowException, OSError):  # not there, or damaged
        return False


def _unreadable(part: Path) -> int:
    return int(pq.read_metadata(part).metadata[UNREADABLE_COUNT])


def _read_all(done: Generator[int, None, None], images: int, missing: int) -> None:
    with (
        closing(done),  # which ends the workers, should anything happen here
        tqdm(
            total=images, initial=images - missing, unit="image", unit_scale=True, disable=None
        ) as progress,
    ):
        for count in done:
            progress.update(count)


def by_processes(job: Job, tasks: list[Task], workers: int | None) -> Generator[int, None, None]:
    """Do `tasks` on this machine; yields the number of images in each one done.

    Raises:
        MnistCnnError: what `read_part` raises, or a process was killed.
        OSError: as `read_part`.
    """
    workers = min(workers or os.cpu_count() or 1, len(tasks))
    if workers <= 1:
        for task in tasks:
            yield read_part(job, task)
        return
    # A fork would copy the threads' locks of onnxruntime and Arrow, but not the threads.
    context = multiprocessing.get_context("spawn")
    listening, lifeline = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(workers, context, _live_by, (listening,))
    waiting = iter(tasks)
    running: set[Future[int]] = set()
    try:
        while True:
            more = islice(waiting, 2 * workers - len(running))
            running |= {executor.submit(read_part, job, task) for task in more}
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool:
        raise MnistCnnError(
            "a process was killed, perhaps for want of memory; run it again, with fewer --workers"
        ) from None
    except BaseException:
        lifeline.close()
        raise
    finally:
        executor.shutdown(cancel_futures=True)
        lifeline.close()


def _live_by(lifeline: Connection) -> None:
    """Begin a process that ends as soon as the other end is closed, or whoever holds it killed."""

    def watch() -> None:
        with suppress(EOFError):
            lifeline.recv()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process decides
    threading.Thread(target=watch, daemon=True).start()


def read_part(job: Job, task: Task) -> int:
    """Read the images of a task and write its part; returns their number.

    Any process may, on any machine that sees the same files, even two the same at once: both
    write the same, each to a temporary file of its own.

    Raises:
        MnistCnnError: a Parquet file is damaged or changed, or the model is another one here.
        OSError: the part cannot be written.
    """
    recognizer = _recognizer(job.model, job.digest)
    unreadable, batches = 0, []
    for batch in task.batches():
        unreadable += len(batch.problems)
        batches.append(_readings(recognizer, batch, task.key_name))
    table = pa.Table.from_batches(batches)
    if len(table) != len(task):
        raise MnistCnnError("the input has changed since the run began; begin anew")
    notes = {
        UNREADABLE_COUNT: str(unreadable),
        "labels": ",".join(recognizer.labels),
        "model_sha256": job.digest,
    }
    content = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(notes),
        content,
        compression="zstd",
        use_dictionary=["label", "warning"],
    )
    temporary = job.output / TEMPORARY / uuid4().hex
    write_bytes(temporary, content.getvalue())
    temporary.replace(job.part(task.number))
    return len(task)


@cache
def _recognizer(model: Path, digest: str) -> Recognizer:
    """What reads in this process."""
    if sha256(model) != digest:
        raise MnistCnnError(f"{model} is not the model that the run began with")
    cv2.setNumThreads(1)  # there are as many processes as processors
    warnings.filterwarnings("ignore", module="PIL")  # on damage that is noted in our own words
    return Recognizer(model)


def _readings(recognizer: Recognizer, batch: Batch, key_name: str) -> pa.RecordBatch:
    """What is read in a batch, as the columns of a part."""
    rows, labels = len(batch.keys), len(recognizer.labels)
    likeliest = np.zeros(rows, np.int64)
    notes = np.full(rows, NO_INK, np.object_)
    for place, problem in batch.problems.items():
        notes[place] = UNREADABLE + problem
    probabilities = np.empty((0, labels), np.float32)
    if len(batch.images):
        read = recognizer.judge(batch.images)
        likeliest[batch.inked], notes[batch.inked] = read.likeliest, read.warnings
        probabilities = read.probabilities
    offsets = np.zeros(rows + 1, np.int32)
    np.cumsum(batch.inked * labels, out=offsets[1:])
    return pa.RecordBatch.from_arrays(
        [
            batch.keys,
            pa.array(recognizer.labels).take(pa.array(likeliest, mask=~batch.inked)),
            pa.ListArray.from_arrays(
                offsets, pa.array(probabilities.ravel()), mask=pa.array(~batch.inked)
            ),
            pa.array(notes, pa.string()),
        ],
        [key_name, "label", "probabilities", "warning"],
    )
