"""Trying the sources of a download in turn."""

from collections.abc import Callable, Iterable

from mnist_cnn.core.errors import MnistCnnError


class SourceError(Exception):
    """A source failed; the next one is tried."""


def try_each(sources: Iterable[str], what: str, serve: Callable[[str], None]) -> str:
    """Call `serve` with each source until one works, and return that one.

    Raises:
        MnistCnnError: if `serve` raised SourceError for all; the message has one line for each.
    """
    reasons = []
    for source in sources:
        try:
            serve(source)
        except SourceError as error:
            reasons.append(f"{source}: {error}")
        else:
            return source
    raise MnistCnnError(f"no source served {what}:\n  " + "\n  ".join(reasons))
