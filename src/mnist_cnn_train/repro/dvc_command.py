"""The command `dvc` of the project's environment: DVC, once nothing is in its way.

DVC starts a stage by `$SHELL`, which may be no shell, and by the `python` that comes first on the
`PATH`, which may be another; by then it has deleted the stage's outputs. And where it was killed
while it wrote one of its own two files, it refuses to start again. `make setup` puts this command
in the place of DVC's own.
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

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else `exp run` leaves git detached
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
    """The DVC project that `folder` is in."""
    return next((one for one in (folder, *folder.parents) if (one / ".dvc").is_dir()), None)


def remove_half_written(root: Path) -> None:
    """Remove what DVC was killed in writing, unless a living process holds it.

    Without its `rwlock`, DVC knows of no other process, and without a `dvc.lock`, it takes the
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
    """Remove what an interrupted training kept, once the pipeline has its results otherwise."""
    with _holding(root / CHECKPOINTS / "train.lock") as held:
        for state in (root / CHECKPOINTS).glob("train-*") if held else ():
            state.unlink()


@contextmanager
def _holding(lock: Path) -> Iterator[bool]:
    """Whether `lock` could be taken, as DVC takes it; where it is not there, nobody needs it."""
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
    """Whether DVC can read `path`; one with the marks of a merge is its author's to mend."""
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
