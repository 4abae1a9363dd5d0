"""Errors that a user can fix, reported as one clear message instead of a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class MnistCnnError(Exception):
    """An error whose message can be shown as is: what is wrong, where, and what to do."""


# The extra that installs each optional package; `train` for all others.
EXTRAS = {"pyarrow": "score", "ray": "ray", "optuna": "sweep"}


class CheckFailedError(MnistCnnError):
    """A result failed its check; an older one must not be put in its place."""


def one_line(problem: BaseException | str) -> str:
    """Return the message of `problem` on one line, never empty, without an `OSError`'s errno."""
    if isinstance(problem, OSError) and problem.strerror:
        where = f"{problem.filename}: " if problem.filename else ""
        problem = f"{where}{problem.strerror}"
    return " ".join(str(problem).split()) or type(problem).__name__


@contextmanager
def exit_on_error(program: str) -> Iterator[None]:
    """On an error that a user can fix, exit with ``program: message`` and code 1.

    Covers `MnistCnnError`, missing packages, and `OSError` (disk full, permission denied, …).
    Ctrl-C exits with 130, as shells expect. Any other exception is a bug and keeps its traceback.
    """
    try:
        yield
    except MnistCnnError as error:
        sys.exit(f"{program}: {error}")
    except OSError as error:
        sys.exit(f"{program}: {one_line(error)}")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "mnist_cnn":
            raise
        extra = EXTRAS.get(package, "train")
        sys.exit(
            f"{program}: this needs {package}, which is not installed: pip install '.[{extra}]' in "
            f"a checkout, or 'FILE.whl[{extra}]' of the wheel"
        )
    except KeyboardInterrupt:
        sys.stderr.write(f"{program}: interrupted\n")
        sys.exit(130)
