"""What each stage runs within: alone in its folder, and with failures told plainly."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from mnist_cnn.errors import CheckFailedError, MnistCnnError, told_plainly
from mnist_cnn.paths import CHECKPOINTS


@contextmanager
def running(stage: str, takes_turns: bool = True) -> Iterator[None]:
    """Run the block as `stage`.

    Failures that a user can mend end the process as `told_plainly` says. Two runs of a stage in
    one folder take turns: where `dvc` alone was killed, its stage is still at work. One that does
    not take turns as a whole has to ask for `alone` itself.

    DVC deletes the outputs of a stage before it starts it. If the stage then ends early, because
    its settings are refused or the disk is full, say, they are put back from DVC's cache, so that
    the last good model stays. Not so after a `CheckFailedError`, since that says that the model
    is not good.
    """
    with told_plainly(stage):
        try:
            with alone(stage) if takes_turns else nullcontext():
                yield
        except CheckFailedError:
            raise
        except (MnistCnnError, OSError):
            _put_back_outputs()
            raise


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Wait until no other process in this folder is within a block of this `name`.

    However a process ends, the system takes its lock away.
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
    stage = os.environ.get("DVC_STAGE")  # set by DVC for what it starts
    if stage:
        command = [sys.executable, "-m", "dvc", "checkout", "--quiet", stage]
        # It may fail where the stage never ran: then there is nothing to put back.
        subprocess.run(command, capture_output=True, check=False)  # noqa: S603
