"""Run a job's tasks in worker processes on this machine."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from itertools import islice
from multiprocessing.connection import Connection

from mnist_cnn.batch.inputs import Task
from mnist_cnn.batch.parts import Job, read_part
from mnist_cnn.core.errors import MnistCnnError


def by_processes(job: Job, tasks: list[Task], workers: int | None) -> Generator[int, None, None]:
    """Run `tasks` on this machine; yield the number of images of each finished task.

    Raises:
        MnistCnnError: if `read_part` raises it, or a worker was killed.
        OSError: if `read_part` raises it.
    """
    workers = min(workers or os.cpu_count() or 1, len(tasks))
    if workers <= 1:
        for task in tasks:
            yield read_part(job, task)
        return
    # A fork would copy locks held by threads of onnxruntime and Arrow, but not the threads.
    context = multiprocessing.get_context("spawn")
    listening, lifeline = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(workers, context, exit_with_parent, (listening,))
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


def exit_with_parent(lifeline: Connection) -> None:
    """Initialize a worker to exit when the parent closes its end of `lifeline` or dies."""

    def watch() -> None:
        with suppress(EOFError):
            lifeline.recv()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent handles it
    threading.Thread(target=watch, daemon=True).start()
