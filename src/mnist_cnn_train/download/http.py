"""HTTP downloads with limits on size and time, and with retries."""

import time

import requests
from requests.exceptions import ChunkedEncodingError, ProxyError, SSLError
from tqdm import tqdm
from urllib3.exceptions import HTTPError as TransferError
from urllib3.exceptions import NewConnectionError, ReadTimeoutError

from mnist_cnn.core.errors import one_line

ATTEMPTS = 3
BACKOFF = 1.0  # seconds before the second attempt, doubled for each further one
CONNECT_TIMEOUT = 10  # seconds
STALL_TIMEOUT = 30  # seconds without a byte
FILE_TIMEOUT = 600  # seconds for one file in total
MAX_REDIRECTS = 5
CHUNK = 2**16

# Status codes of temporary problems.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class FetchError(Exception):
    """A file could not be fetched; the message is one line, without the URL."""


class _RefusedError(Exception):
    def __init__(self, status: int, words: str) -> None:
        self.status, self.words = status, words


def fetch(url: str, limit: int, timeout: float | None = None) -> bytes:
    """Download at most `limit` bytes from `url` within `timeout` seconds (default `FILE_TIMEOUT`).

    If the connection breaks or stalls, or the server is busy, the transfer is restarted, up to
    `ATTEMPTS` attempts in total. Permanent errors are not retried: an unreachable host, a missing
    or forbidden file, a redirect loop, or a file that is too large.

    Raises:
        FetchError: if the file could not be fetched.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _fetch_once(url, limit, FILE_TIMEOUT if timeout is None else timeout)
        except (requests.RequestException, TransferError, _RefusedError) as error:
            reason = _reason(error)
            if not _is_passing(error):
                raise FetchError(reason) from error
        if attempt < ATTEMPTS:
            time.sleep(BACKOFF * 2 ** (attempt - 1))
    raise FetchError(f"{reason}, {ATTEMPTS} times")


def _fetch_once(url: str, limit: int, timeout: float) -> bytes:
    deadline = time.monotonic() + timeout
    content = bytearray()
    with requests.Session() as session:
        session.max_redirects = MAX_REDIRECTS
        # No compression, since a small response could expand to a large one.
        headers = {"Accept-Encoding": "identity"}
        timeouts = (CONNECT_TIMEOUT, STALL_TIMEOUT)
        with (
            session.get(url, headers=headers, timeout=timeouts, stream=True) as response,
            tqdm(
                desc=url.rpartition("/")[2],
                total=response.raw.length_remaining,
                unit="B",
                unit_scale=True,
                leave=False,
                disable=None,
            ) as progress,
        ):
            if not response.ok:
                raise _RefusedError(response.status_code, response.reason)
            # As bytes arrive: a read of a fixed size would block on a slow server.
            while chunk := response.raw.read1(CHUNK):
                content += chunk
                progress.update(len(chunk))
                if len(content) > limit:
                    raise FetchError(f"it is larger than {limit:,} bytes")
                if time.monotonic() > deadline:
                    raise FetchError(f"it took more than {timeout} s")
    return bytes(content)


def _is_passing(error: Exception) -> bool:
    if isinstance(error, _RefusedError):
        return error.status in _PASSING
    if isinstance(error, TransferError):  # during the transfer
        return True
    if isinstance(error, ProxyError | SSLError | requests.ConnectTimeout):
        return False
    broken_off = isinstance(error, requests.ConnectionError | requests.Timeout)
    return broken_off and not _is_unreachable(error)


def _is_unreachable(error: Exception) -> bool:
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return isinstance(reason, NewConnectionError)  # also if the name does not resolve


def _reason(error: Exception) -> str:
    if isinstance(error, _RefusedError):
        return f"the server answers {error.status} {error.words}"
    if isinstance(error, requests.TooManyRedirects):
        return f"it is redirected more than {MAX_REDIRECTS} times"
    if isinstance(error, requests.ConnectTimeout) or _is_unreachable(error):
        return "the host cannot be reached"
    if isinstance(error, requests.ReadTimeout | ReadTimeoutError):
        return f"nothing came for {STALL_TIMEOUT} s"
    if isinstance(error, TransferError | ChunkedEncodingError) or _is_passing(error):
        return "the connection broke off"
    return one_line(error)
