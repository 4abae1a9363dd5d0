"""Context managers around a stage: one-line errors, restored outputs, and a lock."""

import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mnist_cnn.core.errors import CheckFailedError, MnistCnnError, exit_on_error
from mnist_cnn_train.pipeline.outputs import restore_outputs
from mnist_cnn_train.pipeline.paths import CHECKPOINTS


@contextmanager
def running(stage: str) -> Iterator[None]:
    """Run the block as `stage`, with `exit_on_error`.

    DVC deletes a stage's outputs before starting it. If the stage then ends early (for example:
    invalid settings, disk full, Ctrl-C), they are restored from DVC's cache, so that the last good
    model stays; not after a `CheckFailedError`, which says that the model is not good.
    """
    with exit_on_error(stage), _ending_by_exception():
        try:
            yield
        except CheckFailedError:
            raise
        except BaseException as error:
            if not _in_torchrun():
                _put_back_outputs()
            if isinstance(error, ImportError):
                raise MnistCnnError(
                    f"{error}: this Python is not the project's; first run `make setup` and "
                    "`source .venv/bin/activate`"
                ) from error
            raise


@contextmanager
def _ending_by_exception() -> Iterator[None]:
    """Make SIGTERM raise an exception in the block, as Ctrl-C does."""

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, signal.SIG_DFL if _in_torchrun() else end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _in_torchrun() -> bool:
    """Whether torchrun started this process; if so, the process that started torchrun cleans up."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def exclusive_lock(name: str) -> Iterator[None]:
    """Wait until no other process in this folder is in a block of this `name`.

    If only `dvc` was killed, its stage may still be running. The system releases the lock however
    the process ends.
    """
    CHECKPOINTS.mkdir(exist_ok=True)
    with (CHECKPOINTS / f"{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write(f"{name}: waiting for another run of it in this folder to end\n")
            sys.stderr.flush()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _put_back_outputs() -> None:
    stage = os.environ.get("DVC_STAGE")  # set by DVC
    if stage:
        restore_outputs(stage)
