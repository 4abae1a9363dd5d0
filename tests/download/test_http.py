"""Against a server on this machine whose every answer is a fault."""

import gzip
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from mnist_cnn_train.download import http as fetching
from mnist_cnn_train.download.http import ATTEMPTS, MAX_REDIRECTS, FetchError, fetch

CONTENT = bytes(range(256)) * 100
LIMIT = len(CONTENT)
Patch = pytest.MonkeyPatch


class Faulty(BaseHTTPRequestHandler):
    """Answers as the path says; /NAME/N does so N times, and then serves CONTENT."""

    asked: ClassVar[Counter[str]] = Counter()

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        _, fault, *times = self.path.split("/")
        if times and self.asked[self.path] > int(times[0]):
            fault = "good"
        if fault.isdecimal():
            self.send_error(int(fault))
        else:
            getattr(self, f"answer_{fault}")()

    def begin(self, content: bytes, status: int = 200, **headers: str) -> None:
        """Send what comes before a file of CONTENT's length, and then `content`."""
        self.send_response(status)
        for name, value in {"Content_Length": str(len(CONTENT)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def answer_good(self) -> None:
        self.begin(CONTENT)

    def answer_reset(self) -> None:
        self.begin(CONTENT[:1000])
        # Closed with nothing left to wait for, a socket sends a reset.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def answer_hangup(self) -> None:
        self.close_connection = True  # without a word

    def answer_truncated(self) -> None:
        self.begin(CONTENT[:-1])

    def answer_stall(self) -> None:
        self.begin(CONTENT[:1000])
        time.sleep(2)

    def answer_drip(self) -> None:
        self.begin(b"")
        for byte in CONTENT[:100]:
            self.wfile.write(bytes([byte]))
            time.sleep(0.05)

    def answer_endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(CONTENT)

    def answer_encoded(self) -> None:
        bomb = gzip.compress(bytes(100 * LIMIT))
        self.begin(bomb, Content_Length=str(len(bomb)), Content_Encoding="gzip")

    def answer_loop(self) -> None:
        self.begin(b"", 302, Content_Length="0", Location=self.path)


@pytest.fixture
def server(monkeypatch: Patch) -> Iterator[str]:
    monkeypatch.setattr(fetching, "BACKOFF", 0.01)
    monkeypatch.setattr(Faulty, "asked", Counter())
    with ThreadingHTTPServer(("127.0.0.1", 0), Faulty) as running:
        running.daemon_threads = True
        running.block_on_close = False
        running.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_file_is_fetched_at_once(server: str) -> None:
    assert fetch(f"{server}/good", LIMIT) == CONTENT
    assert Faulty.asked == {"/good": 1}


@pytest.mark.fault
@pytest.mark.parametrize("fault", ["reset", "hangup", "truncated", "429", "500", "503"])
def test_what_may_pass_is_tried_again(fault: str, server: str) -> None:
    path = f"/{fault}/{ATTEMPTS - 1}"
    assert fetch(server + path, LIMIT) == CONTENT
    assert Faulty.asked[path] == ATTEMPTS


@pytest.mark.fault
@pytest.mark.parametrize(
    ("fault", "reason", "times"),
    [
        ("reset", f"the connection broke off, {ATTEMPTS} times", ATTEMPTS),
        ("hangup", f"the connection broke off, {ATTEMPTS} times", ATTEMPTS),
        ("truncated", f"the connection broke off, {ATTEMPTS} times", ATTEMPTS),
        ("503", f"the server answers 503 Service Unavailable, {ATTEMPTS} times", ATTEMPTS),
        ("403", "the server answers 403 Forbidden", 1),
        ("404", "the server answers 404 Not Found", 1),
        ("endless", f"it is larger than {LIMIT:,} bytes", 1),
        ("loop", f"it is redirected more than {MAX_REDIRECTS} times", MAX_REDIRECTS + 1),
    ],
)
def test_what_does_not_pass_is_given_up(fault: str, reason: str, times: int, server: str) -> None:
    with pytest.raises(FetchError, match=f"^{reason}$"):
        fetch(f"{server}/{fault}", LIMIT)
    assert Faulty.asked[f"/{fault}"] == times


@pytest.mark.fault
def test_a_stall_ends(server: str, monkeypatch: Patch) -> None:
    monkeypatch.setattr(fetching, "STALL_TIMEOUT", 0.2)
    with pytest.raises(FetchError, match=r"nothing came for 0\.2 s, 3 times"):
        fetch(f"{server}/stall", LIMIT)
    assert fetch(f"{server}/stall/1", LIMIT) == CONTENT


@pytest.mark.fault
def test_a_drip_ends(server: str, monkeypatch: Patch) -> None:
    monkeypatch.setattr(fetching, "FILE_TIMEOUT", 0.5)
    for timeout, limit in ((0.1, 0.1), (None, 0.5)):
        with pytest.raises(FetchError, match=f"it took more than {limit} s"):
            fetch(f"{server}/drip", LIMIT, timeout)


@pytest.mark.fault
def test_what_was_packed_on_the_way_is_not_unpacked(server: str) -> None:
    assert len(fetch(f"{server}/encoded", LIMIT)) < LIMIT


@pytest.mark.fault
@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_an_unreachable_host_is_not_asked_again(host: str, monkeypatch: Patch) -> None:
    monkeypatch.setattr(fetching, "BACKOFF", 100)
    with socket.socket() as taken:  # bound, but not listening
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(FetchError, match=r"^the host cannot be reached$"):
            fetch(f"http://{host}:{taken.getsockname()[1]}/file", LIMIT)
