import base64
import hashlib
import http.client
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from conftest import hear_ctrl_c
from PIL import Image

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.demo import server as demo
from mnist_cnn.demo.server import MAX_UPLOAD_BYTES, make_server
from mnist_cnn.imaging.load import load_gray
from mnist_cnn.reader.recognizer import NO_DIGIT, NO_INK, Prediction

SEEN = np.arange(784).reshape(28, 28).astype(np.uint8)
SEVEN = Prediction("7", 0.75, {"1": 0.25, "7": 0.75}, NO_DIGIT, SEEN)
NOTHING = Prediction(None, 0.0, {}, NO_INK, None)


class Reader:
    """Reads a seven in any picture but a white one; what it is told is up to the tests."""

    labels = ("1", "7")

    def predict(self, picture: bytes) -> Prediction:
        return NOTHING if load_gray(picture).min() == 255 else SEVEN


def png(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (20, 20), level).save(file, "PNG")
    return file.getvalue()


class Visitor:
    def __init__(self, port: int) -> None:
        self.port = port

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def refused(self, status: int, method: str, path: str, **headers: str) -> str:
        # Without a body: one that is not read resets the connection, at times before the answer.
        response, body = self.ask(method, path, **headers)
        assert response.status == status
        assert response.headers["Connection"] == "close"
        return json.loads(body)["error"]

    def tell(self, text: str) -> bytes:
        """Send `text` as it is, and receive until the server hangs up."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(text.replace("\n", "\r\n").encode())
            received = b""
            while part := connection.recv(4096):
                received += part
            return received


@pytest.fixture
def visitor() -> Iterator[Visitor]:
    with make_server(Reader(), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Visitor(server.server_port)
        server.shutdown()
        thread.join()


def test_a_picture_is_read(visitor: Visitor) -> None:
    response, body = visitor.ask("POST", "/predict", png(0))
    assert response.status == 200
    assert response.headers["Content-Type"] == "application/json"
    answer = json.loads(body)
    assert base64.b64decode(answer.pop("image")) == SEEN.tobytes()
    assert answer == {
        "label": "7",
        "probability": 0.75,
        "probabilities": {"1": 0.25, "7": 0.75},
        "warning": NO_DIGIT,
    }


def test_a_blank_picture_has_no_label(visitor: Visitor) -> None:
    _, body = visitor.ask("POST", "/predict", png(255))
    assert json.loads(body) == {
        "label": None,
        "probability": 0.0,
        "probabilities": {},
        "warning": NO_INK,
        "image": None,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a picture", "this file is not a picture in a format that is read"),
        (b"", "this file is empty"),
        (png(0)[:45], "this file is damaged"),
    ],
    ids=["text", "empty", "damaged"],
)
def test_what_is_no_picture_is_told_in_one_line(
    visitor: Visitor, content: bytes, message: str
) -> None:
    response, body = visitor.ask("POST", "/predict", content)
    assert response.status == 400
    error = json.loads(body)["error"]
    assert error.startswith(message)
    assert "\n" not in error


def test_a_connection_serves_stroke_after_stroke(visitor: Visitor) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", visitor.port, timeout=5)
    for content, status in ((png(0), 200), (b"no picture", 400), (png(0), 200)):
        connection.request("POST", "/predict", content)
        response = connection.getresponse()
        assert (response.status, response.will_close) == (status, False)
        response.read()
    connection.close()


def test_the_page_may_load_and_run_its_own_content_only(visitor: Visitor) -> None:
    response, body = visitor.ask("GET", "/?from=somewhere")
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    page = body.decode()
    assert 'data-labels="1,7"' in page
    assert f'data-most-bytes="{MAX_UPLOAD_BYTES}"' in page
    assert "{{" not in page
    [policy] = response.headers.get_all("Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    for tag in ("script", "style"):
        [content] = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules.pop(f"{tag}-src") == f"'sha256-{digest}'"
    assert rules == {
        "default-src": "'none'",
        "img-src": "'self' blob: data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("POST", "/predict"), ("GET", "/no")])
def test_every_answer_has_the_headers_that_protect_it(
    visitor: Visitor, method: str, path: str
) -> None:
    response, _ = visitor.ask(method, path, png(0) if method == "POST" else None)
    assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "same-origin"
    assert response.headers["Cache-Control"] == "no-store"


def test_head_has_no_body(visitor: Visitor) -> None:
    response, body = visitor.ask("HEAD", "/")
    assert (response.status, body) == (200, b"")


def test_other_pages_and_methods_are_refused(visitor: Visitor) -> None:
    visitor.refused(404, "GET", "/favicon.ico")
    visitor.refused(404, "POST", "/predict/")
    assert visitor.refused(405, "GET", "/predict") == "use POST"
    assert visitor.refused(405, "POST", "/") == "use GET, HEAD"
    assert visitor.refused(405, "DELETE", "/predict") == "use POST"


def test_only_this_machines_names_are_served(visitor: Visitor) -> None:
    port = visitor.port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
        assert visitor.ask("POST", "/predict", png(0), Host=host)[0].status == 200
    for host in ("digits.example", f"digits.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}"):
        for method, path in (("GET", "/"), ("POST", "/predict")):
            visitor.refused(403, method, path, Host=host)


@pytest.mark.parametrize("hosts", ["", "Host: 127.0.0.1:{port}\nHost: evil.example\n"])
def test_no_host_or_two_are_refused(visitor: Visitor, hosts: str) -> None:
    request = f"GET / HTTP/1.1\n{hosts}\n".replace("{port}", str(visitor.port))
    assert visitor.tell(request).startswith(b"HTTP/1.1 403 ")


def test_pages_of_other_sites_are_refused(visitor: Visitor) -> None:
    own = f"http://127.0.0.1:{visitor.port}"
    assert visitor.ask("POST", "/predict", png(0), Origin=own)[0].status == 200
    for origin in ("https://evil.example", "null", f"{own}0", own.replace("http", "https")):
        visitor.refused(403, "POST", "/predict", Origin=origin)


def test_too_large_a_file_is_refused_before_it_is_sent(visitor: Visitor) -> None:
    answer = visitor.tell(
        f"POST /predict HTTP/1.1\nHost: 127.0.0.1:{visitor.port}\n"
        f"Content-Length: {MAX_UPLOAD_BYTES + 1}\n\n"
    )
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(b'{"error": "this file has more than the 10 MB allowed"}')


def test_a_file_of_the_most_bytes_is_read(visitor: Visitor) -> None:
    content = png(0).ljust(MAX_UPLOAD_BYTES, b"\0")
    assert visitor.ask("POST", "/predict", content)[0].status == 200


@pytest.mark.parametrize("length", [None, "-1", "+5", "1_0", "ten", "9" * 5_000, ""])
def test_a_request_must_say_its_length(visitor: Visitor, length: str | None) -> None:
    header = "" if length is None else f"Content-Length: {length}\n"
    answer = visitor.tell(f"POST /predict HTTP/1.1\nHost: 127.0.0.1:{visitor.port}\n{header}\n")
    assert answer.startswith(b"HTTP/1.1 411 ")


def test_a_body_in_chunks_is_refused(visitor: Visitor) -> None:
    answer = visitor.tell(
        f"POST /predict HTTP/1.1\nHost: 127.0.0.1:{visitor.port}\n"
        "Content-Length: 5\nTransfer-Encoding: chunked\n\n"
    )
    assert answer.startswith(b"HTTP/1.1 411 ")


@pytest.mark.parametrize(
    "beginning", ["", "POST /pre", "POST /predict HTTP/1.1\nHost: {host}\nContent-Length: 100\n\nx"]
)
def test_a_stalled_visitor_is_given_up_and_holds_up_nobody(
    visitor: Visitor, beginning: str, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr(demo._Requests, "timeout", 0.3)
    text = beginning.replace("{host}", f"127.0.0.1:{visitor.port}")
    stalled = threading.Thread(target=lambda: answers.append(visitor.tell(text)))
    answers: list[bytes] = []
    stalled.start()
    assert visitor.ask("POST", "/predict", png(0))[0].status == 200
    stalled.join(timeout=5)
    assert answers == [b""]
    assert capfd.readouterr() == ("", "")


def test_a_visitor_who_leaves_early_is_no_news(visitor: Visitor, capfd: Any) -> None:
    for _ in range(3):
        connection = socket.create_connection(("127.0.0.1", visitor.port))
        # Closing then resets the connection, as a browser's crash does.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.sendall(b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n")
        connection.close()
    with socket.create_connection(("127.0.0.1", visitor.port)) as connection:
        head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{visitor.port}\r\nContent-Length: 9\r\n"
        connection.sendall(f"{head}\r\nhalf".encode())
    assert visitor.ask("GET", "/")[0].status == 200
    assert capfd.readouterr() == ("", "")


def test_only_this_machine_is_listened_to(visitor: Visitor) -> None:
    with make_server(Reader(), 0) as server:
        assert server.server_address[0] == "127.0.0.1"


def test_a_port_in_use_is_one_line(visitor: Visitor) -> None:
    with pytest.raises(MnistCnnError) as failure:
        make_server(Reader(), visitor.port)
    message = str(failure.value)
    assert message.startswith(f"port {visitor.port} cannot be used: ")
    assert message.endswith("; choose another with --port")
    assert "\n" not in message


PROGRAM = """
import sys, webbrowser
from types import SimpleNamespace
from mnist_cnn.cli.model import demo
from mnist_cnn.reader import recognizer
recognizer.Recognizer = lambda model: SimpleNamespace(labels=["0"])
webbrowser.open = lambda address: print("opened", address, file=sys.stderr, flush=True)
demo([sys.argv[1]], standalone_mode=False)
print("torch" in sys.modules)
"""


@pytest.mark.slow
@pytest.mark.parametrize("browser", ["--browser", "--no-browser"])
def test_serving_says_where_ends_with_ctrl_c_and_needs_no_torch(browser: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, browser],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    )
    try:
        said = process.stdout.readline()
        [(address, port)] = re.findall(r"(http://127\.0\.0\.1:(\d+)/)", said)
        assert Visitor(int(port)).ask("GET", "/")[0].status == 200
        if browser == "--browser":
            assert process.stderr.readline() == f"opened {address}\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=5) == 0
        assert process.stdout.read() == "False\n"
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()
