"""The error of a source of data."""


class SourceError(Exception):
    """Why one source cannot serve; the next one is tried."""
