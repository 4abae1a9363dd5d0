"""Run a job's tasks on a Ray cluster with Ray Data."""

import logging
import os
import socket
from collections.abc import Generator
from functools import partial
from typing import Any

import ray
import ray.data
import ray.exceptions

from mnist_cnn.batch.inputs import Task
from mnist_cnn.batch.parts import Job, read_part
from mnist_cnn.core.errors import MnistCnnError, one_line

STORE = 200_000_000  # bytes for Ray's object store; blocks hold only task descriptions


def by_ray(job: Job, tasks: list[Task], workers: int | None) -> Generator[int, None, None]:
    """Run `tasks` on the cluster at RAY_ADDRESS or, if unset, on a local one.

    Every node needs this package and the files of `job` and `tasks` at the same paths. Tasks of a
    lost node are run by another. Yields the number of images of each finished task.

    Raises:
        MnistCnnError: if `read_part` failed, the cluster cannot be reached, or Ray fails.
    """
    if not tasks:
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    own: dict[str, Any] = {
        "num_cpus": workers,
        "include_dashboard": False,
        "object_store_memory": STORE,
    }
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when Ray starts
    try:
        _check_reachable(address)
        ray.init(address, **quiet, **(own if address == "local" else {}))
    except (OSError, RuntimeError, ValueError) as error:
        raise MnistCnnError(f"there is no Ray cluster at {address}: {one_line(error)}") from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        done = ray.data.from_items(
            [{"task": task} for task in tasks], override_num_blocks=len(tasks)
        ).map(partial(_attempt, job), num_cpus=1, concurrency=workers)
        for row in done.iter_rows():
            if row["problem"]:
                raise MnistCnnError(row["problem"])
            yield row["images"]
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise MnistCnnError(f"Ray gave up: {reason}") from None
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Fail fast if the address is unreachable: Ray would retry for minutes, and log it all."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=10).close()


def _attempt(job: Job, row: dict[str, Any]) -> dict[str, Any]:
    """Run a task and return errors as text: Ray would wrap them and retry in vain."""
    try:
        return {"images": read_part(job, row["task"]), "problem": ""}
    except (MnistCnnError, OSError) as error:
        return {"images": 0, "problem": one_line(error)}
