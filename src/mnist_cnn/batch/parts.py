"""Process one part of a job: classify its images and write one Parquet file."""

import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from uuid import uuid4

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mnist_cnn.batch.inputs import Batch, Task
from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.core.files import sha256, write_bytes
from mnist_cnn.reader.recognizer import NO_INK, Recognizer

TEMPORARY = "_temporary"  # subfolder of the output for unfinished parts
UNREADABLE = "could not be read: "  # prefix of a warning
UNREADABLE_COUNT = b"unreadable"  # key in the metadata of a part's file


@dataclass(frozen=True)
class Job:
    """Settings common to all tasks; `digest` is the model's SHA-256."""

    output: Path
    model: Path
    digest: str

    def part(self, number: int) -> Path:
        """Return the path of a part."""
        return self.output / f"part-{number:06}.parquet"


def is_done(job: Job, task: Task) -> bool:
    """Whether the part of `task` exists and is complete."""
    try:
        return bool(pq.read_metadata(job.part(task.number)).num_rows == len(task))
    except (pa.ArrowException, OSError):  # missing or damaged
        return False


def unreadable_count(part: Path) -> int:
    """Return how many images of a part could not be read."""
    return int(pq.read_metadata(part).metadata[UNREADABLE_COUNT])


def read_part(job: Job, task: Task) -> int:
    """Classify the images of a task, write its part, and return the number of images.

    Any process on any machine with the same files can do this. Two may even process the same task
    at once: they write identical bytes, each to its own temporary file.

    Raises:
        MnistCnnError: if a Parquet file is damaged or changed, or the model differs from the job's.
        OSError: if the part cannot be written.
    """
    recognizer = _recognizer(job.model, job.digest)
    unreadable, batches = 0, []
    for batch in task.batches():
        unreadable += len(batch.problems)
        batches.append(_predictions(recognizer, batch, task.key_name))
    table = pa.Table.from_batches(batches)
    if len(table) != len(task):
        raise MnistCnnError("the input has changed since the run began; begin again")
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
    """Load this process's recognizer once."""
    if sha256(model) != digest:
        raise MnistCnnError(f"{model} is not the model that the run began with")
    cv2.setNumThreads(1)  # there is one process per core already
    warnings.filterwarnings("ignore", module="PIL")  # damaged files: reported in our own words
    return Recognizer(model)


def _predictions(recognizer: Recognizer, batch: Batch, key_name: str) -> pa.RecordBatch:
    """Classify a batch; return the columns of a part."""
    rows, labels = len(batch.keys), len(recognizer.labels)
    likeliest = np.zeros(rows, np.int64)
    notes = np.full(rows, NO_INK, np.object_)
    for place, problem in batch.problems.items():
        notes[place] = UNREADABLE + problem
    probabilities = np.empty((0, labels), np.float32)
    if len(batch.images):
        read = recognizer.predict_batch(batch.images)
        likeliest[batch.inked], notes[batch.inked] = read.likeliest, read.warnings
        probabilities = read.probabilities
    for place, warning in batch.warnings.items():
        notes[place] = "; ".join(filter(None, (notes[place], warning)))
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
