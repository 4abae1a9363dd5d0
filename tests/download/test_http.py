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
        getattr(self, f"answer_{fault}", self.answer_status)(fault)

    def begin(self, length: int, **headers: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def answer_good(self, _: str) -> None:
        self.begin(len(CONTENT))
        self.wfile.write(CONTENT)

    def answer_status(self, fault: str) -> None:
        self.send_error(int(fault))

    def answer_reset(self, _: str) -> None:
        self.begin(len(CONTENT))
        self.wfile.write(CONTENT[:1000])
        self.wfile.flush()
        # Closed with nothing left to wait for, a socket sends a reset.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def answer_hangup(self, _: str) -> None:
        self.close_connection = True  # without a word

    def answer_truncated(self, _: str) -> None:
        self.begin(len(CONTENT))
        self.wfile.write(CONTENT[:-1])

    def answer_stall(self, _: str) -> None:
        self.begin(len(CONTENT))
        self.wfile.write(CONTENT[:1000])
        self.wfile.flush()
        time.sleep(2)

    def answer_drip(self, _: str) -> None:
        self.begin(len(CONTENT))
        for byte in CONTENT[:100]:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(0.05)

    def answer_endless(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(CONTENT)

    def answer_encoded(self, _: str) -> None:
        bomb = gzip.compress(bytes(100 * LIMIT))
        self.begin(len(bomb), Content_Encoding="gzip")
        self.wfile.write(bomb)

    def answer_loop(self, _: str) -> None:
        self.send_response(302)
        self.send_header("Location", self.path)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
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
    ("fault", "reason"),
    [
        ("reset", "the connection broke off"),
        ("hangup", "the connection broke off"),
        ("truncated", "the connection broke off"),
        ("503", "the server answers 503 Service Unavailable"),
    ],
)
def test_what_does_not_pass_is_given_up(fault: str, reason: str, server: str) -> None:
    with pytest.raises(FetchError) as failure:
        fetch(f"{server}/{fault}", LIMIT)
    assert str(failure.value) == f"{reason}, {ATTEMPTS} times"
    assert Faulty.asked[f"/{fault}"] == ATTEMPTS


@pytest.mark.fault
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("403", "the server answers 403 Forbidden"),
        ("404", "the server answers 404 Not Found"),
        ("endless", f"it is larger than {LIMIT:,} bytes"),
    ],
)
def test_what_will_stay_is_not_tried_again(fault: str, reason: str, server: str) -> None:
    with pytest.raises(FetchError) as failure:
        fetch(f"{server}/{fault}", LIMIT)
    assert str(failure.value) == reason
    assert Faulty.asked[f"/{fault}"] == 1


@pytest.mark.fault
def test_a_redirect_loop_ends(server: str) -> None:
    with pytest.raises(FetchError, match=f"is redirected more than {MAX_REDIRECTS} times"):
        fetch(f"{server}/loop", LIMIT)
    assert Faulty.asked["/loop"] == MAX_REDIRECTS + 1


@pytest.mark.fault
def test_a_stall_ends(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "STALL_TIMEOUT", 0.2)
    with pytest.raises(FetchError, match=r"nothing came for 0\.2 s, 3 times"):
        fetch(f"{server}/stall", LIMIT)
    assert fetch(f"{server}/stall/1", LIMIT) == CONTENT


@pytest.mark.fault
def test_a_drip_ends(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FetchError, match=r"it took more than 0\.1 s"):
        fetch(f"{server}/drip", LIMIT, timeout=0.1)
    monkeypatch.setattr(fetching, "FILE_TIMEOUT", 0.5)
    with pytest.raises(FetchError, match=r"it took more than 0\.5 s"):
        fetch(f"{server}/drip", LIMIT)


@pytest.mark.fault
def test_what_was_packed_on_the_way_is_not_unpacked(server: str) -> None:
    assert len(fetch(f"{server}/encoded", LIMIT)) < LIMIT


@pytest.mark.fault
def test_a_host_that_refuses_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "BACKOFF", 100)
    with socket.socket() as taken:  # bound, but not listening
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(FetchError, match=r"^the host cannot be reached$"):
            fetch(f"http://127.0.0.1:{port}/file", LIMIT)


@pytest.mark.fault
def test_a_host_that_does_not_exist_is_named_so() -> None:
    with pytest.raises(FetchError, match=r"^the host cannot be reached$"):
        fetch("http://no-such-host.invalid/file", LIMIT)
