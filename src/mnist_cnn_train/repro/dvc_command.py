"""Wrapper of the `dvc` command that fixes DVC's environment and its damaged files.

DVC starts stages with `$SHELL`, which may not be a shell, and the first `python` on the `PATH`,
which may be the wrong one; by then it has deleted the stage's outputs. Also, if it is killed while
writing one of its own two files, it refuses to start again. `make setup` installs this command in
place of DVC's own.
"""

import fcntl
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mnist_cnn_train.pipeline.paths import CHECKPOINTS


def main() -> None:
    """Run DVC with the arguments of this process."""
    from dvc.cli import main as dvc

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or `exp run` leaves git detached
    os.environ["SHELL"] = "/bin/sh"
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    root = find_root(Path.cwd())
    if root:
        remove_half_written(root)
    code = dvc()
    if root and code == 0 and sys.argv[1:] == ["repro"]:
        remove_training_states(root)
    sys.exit(code)


def find_root(folder: Path) -> Path | None:
    """Return the root of the DVC project that contains `folder`; None if there is none."""
    return next((one for one in (folder, *folder.parents) if (one / ".dvc").is_dir()), None)


def remove_half_written(root: Path) -> None:
    """Remove files that a killed DVC left half written, unless a running process has the lock.

    Without `rwlock`, DVC assumes that no other process is running; without `dvc.lock`, it takes the
    results from its cache.
    """
    temporary = root / ".dvc/tmp"
    with _holding(temporary / "rwlock.lock") as held:
        if held and not _is_json(temporary / "rwlock"):
            (temporary / "rwlock").unlink()
    with _holding(temporary / "lock") as held:
        lock = root / "dvc.lock"
        if held and not _is_lock(lock):
            lock.unlink()
            sys.stderr.write(
                "dvc.lock was half written, since DVC was killed; what the stages made is taken "
                "from the cache\n"
            )


def remove_training_states(root: Path) -> None:
    """Remove training checkpoints, which are obsolete once the pipeline has succeeded."""
    with _holding(root / CHECKPOINTS / "train.lock") as held:
        for state in (root / CHECKPOINTS).glob("train-*") if held else ():
            state.unlink()


@contextmanager
def _holding(lock: Path) -> Iterator[bool]:
    """Try to take `lock` as DVC does; yield whether it was taken, False if the file is missing."""
    if not lock.is_file():
        yield False
        return
    with lock.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except FileNotFoundError:
        return True
    except ValueError:
        return False
    return True


def _is_lock(path: Path) -> bool:
    """Whether DVC can read `path`; True for merge conflicts, which the user must resolve."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.serialize import ParseError, load_yaml
    from voluptuous import Invalid

    if not path.is_file() or b"<<<<<<<" in path.read_bytes():
        return True
    try:
        COMPILED_LOCKFILE_SCHEMA(load_yaml(str(path)))
    except (ParseError, Invalid):
        return False
    return True


if __name__ == "__main__":
    main()
