"""The tasks of `mnist_cnn.batch.plan` on a Ray cluster, by Ray Data."""

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

STORE = 200_000_000  # bytes of memory that Ray shares; its blocks hold no more than names


def by_ray(job: Job, tasks: list[Task], workers: int | None) -> Generator[int, None, None]:
    """Do `tasks` on the cluster that RAY_ADDRESS names, or else on one of this machine alone.

    Its nodes need this package, and `job` and `tasks` must name the same files on each. Yields the
    number of images in each task done. What a lost node was at is done by another.

    Raises:
        MnistCnnError: what `read_part` raises; there is no cluster, or Ray fails.
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
    """Ray itself would try for minutes, and say so at length."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=10).close()


def _attempt(job: Job, row: dict[str, Any]) -> dict[str, Any]:
    """Ray would wrap what is raised into its own; another attempt would raise it again."""
    try:
        return {"images": read_part(job, row["task"]), "problem": ""}
    except (MnistCnnError, OSError) as error:
        return {"images": 0, "problem": one_line(error)}
