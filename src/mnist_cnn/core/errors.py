"""Failures that a user can mend, told in one clear message instead of a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class MnistCnnError(Exception):
    """What is wrong, where, and what to do: a message fit to be shown as it is."""


# What brings the packages that the reader does without, by their names; all others: `train`.
EXTRAS = {"pyarrow": "score", "ray": "ray", "optuna": "sweep"}


class CheckFailedError(MnistCnnError):
    """What was made does not pass its check, and an older one must not stand in for it."""


def one_line(problem: BaseException | str) -> str:
    """The message of `problem` in one line: never empty, and without the errno of an `OSError`."""
    if isinstance(problem, OSError) and problem.strerror:
        where = f"{problem.filename}: " if problem.filename else ""
        problem = f"{where}{problem.strerror}"
    return " ".join(str(problem).split()) or type(problem).__name__


@contextmanager
def exit_on_error(program: str) -> Iterator[None]:
    """End the process with ``program: message`` and exit code 1 where a user can mend it.

    Covers `MnistCnnError`, packages that are not installed, and what the operating system refuses
    (`OSError`: disk full, permission denied, …). Ctrl-C within the block ends with 130, as shells
    expect. Anything else is a defect of ours and keeps its traceback.
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
