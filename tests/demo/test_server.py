import base64
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import hear_ctrl_c

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.core.mnist import LABELS
from mnist_cnn.demo import server as demo
from mnist_cnn.demo.server import MAX_UPLOAD_BYTES, DemoServer, make_server
from mnist_cnn.reader.recognizer import Recognizer


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


BLANK = png(np.full((20, 20), 255, np.uint8))
ONE = png(cv2.line(np.zeros((20, 20), np.uint8), (10, 4), (9, 16), 255, 2))


class Visitor:
    def __init__(self, port: int) -> None:
        self.port = port
        self.host = f"127.0.0.1:{port}"

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[http.client.HTTPResponse, bytes]:
        with closing(http.client.HTTPConnection(self.host, timeout=5)) as connection:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response, response.read()

    def is_answered(self, content: bytes = ONE, **headers: str) -> bool:
        return self.ask("POST", "/predict", content, **headers)[0].status == 200

    def refused(self, status: int, method: str, path: str, **headers: str) -> str:
        # Without a body: one that is not read resets the connection, at times before the answer.
        response, body = self.ask(method, path, **headers)
        assert (response.status, response.headers["Connection"]) == (status, "close")
        return json.loads(body)["error"]

    def say(self, text: str) -> socket.socket:
        """Send `text` as it is, but for its {host}."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=5)
        connection.sendall(text.format(host=self.host).replace("\n", "\r\n").encode())
        return connection

    def tell(self, text: str) -> bytes:
        """Send `text` likewise, and receive until the server hangs up."""
        with self.say(text) as connection, connection.makefile("rb") as answer:
            return answer.read()


@pytest.fixture
def visitor(demo_server: DemoServer) -> Visitor:
    return Visitor(demo_server.server_port)


@pytest.mark.parametrize("picture", [ONE, BLANK], ids=["a one", "blank paper"])
def test_the_answer_is_what_the_recognizer_says(
    visitor: Visitor, recognizer: Recognizer, picture: bytes
) -> None:
    response, body = visitor.ask("POST", "/predict", picture)
    assert (response.status, response.headers["Content-Type"]) == (200, "application/json")
    answer, expected = json.loads(body), recognizer.predict(picture)
    seen = None if expected.image is None else base64.b64encode(expected.image.tobytes()).decode()
    assert answer.pop("image") == seen
    names = ("label", "probability", "probabilities", "warning")
    assert answer == {name: getattr(expected, name) for name in names}


@pytest.mark.parametrize(
    ("content", "problem"), [(b"text", "this file is not a picture"), (b"", "this file is empty")]
)
def test_what_is_no_picture_is_one_line(visitor: Visitor, content: bytes, problem: str) -> None:
    response, body = visitor.ask("POST", "/predict", content)
    assert response.status == 400
    (line,) = json.loads(body)["error"].splitlines()
    assert line.startswith(problem)


def test_a_connection_serves_stroke_after_stroke(visitor: Visitor) -> None:
    with closing(http.client.HTTPConnection(visitor.host, timeout=5)) as connection:
        for content, status in ((ONE, 200), (b"no picture", 400), (ONE, 200)):
            connection.request("POST", "/predict", content)
            response = connection.getresponse()
            assert (response.status, response.will_close) == (status, False)
            response.read()


def test_the_page_may_load_and_run_its_own_content_only(visitor: Visitor) -> None:
    response, body = visitor.ask("GET", "/?from=somewhere")
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    page = body.decode()
    assert f'data-labels="{",".join(LABELS)}"' in page
    assert f'data-most-bytes="{MAX_UPLOAD_BYTES}"' in page
    assert "{{" not in page
    [policy] = response.headers.get_all("Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    for tag in ("script", "style"):
        [content] = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules.pop(f"{tag}-src") == f"'sha256-{digest}'"
    nothing = ("default-src", "base-uri", "form-action", "frame-ancestors")
    assert rules == {
        "img-src": "'self' blob: data:",
        "connect-src": "'self'",
        **dict.fromkeys(nothing, "'none'"),
    }


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("POST", "/predict"), ("GET", "/no")])
def test_every_answer_has_headers_that_protect_it(visitor: Visitor, method: str, path: str) -> None:
    headers = visitor.ask(method, path, ONE if method == "POST" else None)[0].headers
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"


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
    for host in (visitor.host, f"localhost:{port}"):
        assert visitor.is_answered(Host=host)
    for host in ("digits.example", f"digits.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}"):
        for method, path in (("GET", "/"), ("POST", "/predict")):
            visitor.refused(403, method, path, Host=host)


def test_pages_of_other_sites_are_refused(visitor: Visitor) -> None:
    own = f"http://{visitor.host}"
    assert visitor.is_answered(Origin=own)
    for origin in ("https://evil.example", "null", f"{own}0", own.replace("http", "https")):
        visitor.refused(403, "POST", "/predict", Origin=origin)


GET, POST = "GET / HTTP/1.1\n", "POST /predict HTTP/1.1\nHost: {host}\n"
LENGTHS = ("-1", "+5", "1_0", "ten", "", "9" * 5_000, "5\nTransfer-Encoding: chunked")
TOO_MANY = f"{POST}Content-Length: {MAX_UPLOAD_BYTES + 1}\n"


@pytest.mark.parametrize(
    ("head", "answer"),
    [
        (GET, b"403 .*only 127.0.0.1"),
        (f"{GET}Host: {{host}}\nHost: evil.example\n", b"403 .*only 127.0.0.1"),
        (TOO_MANY, b'413 .*{"error": "this file has more than the 10 MB allowed"}$'),
        (POST, b"411 .*must say its length"),
        *(
            (f"{POST}Content-Length: {length}\n", b"411 .*must say its length")
            for length in LENGTHS
        ),
    ],
    ids=["no host", "two hosts", "too large", "no length", *LENGTHS[:5], "huge", "in chunks"],
)
def test_a_request_is_refused_before_its_body(visitor: Visitor, head: str, answer: bytes) -> None:
    assert re.match(b"HTTP/1.1 " + answer, visitor.tell(f"{head}\n"), re.DOTALL)


def test_a_file_of_the_most_bytes_is_read(visitor: Visitor) -> None:
    assert visitor.is_answered(ONE.ljust(MAX_UPLOAD_BYTES, b"\0"))


@pytest.mark.parametrize("beginning", ["", "POST /pre", f"{POST}Content-Length: 100\n\nx"])
def test_a_stalled_visitor_is_given_up_and_holds_up_nobody(
    visitor: Visitor, beginning: str, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr(demo._Requests, "timeout", 0.3)
    answers: list[bytes] = []
    stalled = threading.Thread(target=lambda: answers.append(visitor.tell(beginning)))
    stalled.start()
    assert visitor.is_answered()
    stalled.join(timeout=5)
    assert answers == [b""]
    assert capfd.readouterr() == ("", "")


def test_a_visitor_who_leaves_early_is_no_news(visitor: Visitor, capfd: Any) -> None:
    for _ in range(3):
        connection = visitor.say(f"{GET}Host: nobody\n\n")
        # Closing then resets the connection, as a browser's crash does.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()
    visitor.say(f"{POST}Content-Length: 9\n\nhalf").close()
    assert visitor.ask("GET", "/")[0].status == 200
    assert capfd.readouterr() == ("", "")


def test_only_this_machine_is_listened_to(demo_server: DemoServer) -> None:
    assert demo_server.server_address[0] == "127.0.0.1"


def test_a_port_in_use_is_one_line(visitor: Visitor, recognizer: Recognizer) -> None:
    message = rf"^port {visitor.port} cannot be used: .*; choose another with --port$"
    with pytest.raises(MnistCnnError, match=message):
        make_server(recognizer, visitor.port)


PROGRAM = "import sys; sys.modules['torch'] = None; from mnist_cnn.cli.main import main; main()"


@pytest.mark.slow
@pytest.mark.parametrize("browser", ["--browser", "--no-browser"])
def test_serving_says_where_ends_with_ctrl_c_and_needs_no_torch(
    browser: str, trained_model: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "demo", browser, "--model", trained_model],
        env={**os.environ, "BROWSER": "echo opened %s"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    ) as process:
        try:
            said = process.stdout.readline()
            [(address, port)] = re.findall(r"(http://127\.0\.0\.1:(\d+)/)", said)
            assert Visitor(int(port)).ask("GET", "/")[0].status == 200
            if browser == "--browser":
                assert process.stdout.readline() == f"opened {address}\n"
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=5) == ("", "")
            assert process.returncode == 0
        finally:
            process.kill()
