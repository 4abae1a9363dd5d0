"""Local server for page.html, a page to draw digits on.

The page sends pictures and shows the response. All preprocessing happens here, in Python, so that
the demo cannot differ from the rest of the package.
"""

import base64
import hashlib
import html
import json
import re
import sys
import threading
import webbrowser
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from mnist_cnn.core.errors import MnistCnnError, one_line
from mnist_cnn.imaging.load import PictureError
from mnist_cnn.reader.recognizer import Prediction, Recognizer

PAGE = Path(__file__).with_name("page.html")
METHODS = {"/": ("GET", "HEAD"), "/predict": ("POST",)}
MAX_UPLOAD_BYTES = 10_000_000  # a phone's photo has 3 to 8 MB
STALLED = 10  # seconds without a byte until a connection is closed


def serve(server: "DemoServer", open_browser: bool = True) -> None:
    """Serve the page until Ctrl-C; if `open_browser`, open it in a browser."""
    if open_browser:
        # In a thread, since a browser in the terminal blocks until it is closed.
        threading.Thread(target=webbrowser.open, args=[server.address], daemon=True).start()
    with suppress(KeyboardInterrupt):
        server.serve_forever()


def make_server(recognizer: Recognizer, port: int) -> "DemoServer":
    """Create the demo's server, which listens on 127.0.0.1 only and is not serving yet.

    Args:
        recognizer: classifies the pictures.
        port: TCP port; 0 for any free one.

    Raises:
        MnistCnnError: if the port cannot be used.
    """
    try:
        return DemoServer(recognizer, port)
    except OSError as error:
        raise MnistCnnError(
            f"port {port} cannot be used: {one_line(error)}; choose another with --port"
        ) from None


class DemoServer(ThreadingHTTPServer):
    """HTTP server of the page at `address`."""

    # With port reuse, a second demo on the same port would get half of the requests.
    allow_reuse_port = False

    def __init__(self, recognizer: Recognizer, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Requests)
        self.recognizer = recognizer
        self.address = f"http://127.0.0.1:{self.server_port}/"
        suffix = "" if self.server_port == 80 else f":{self.server_port}"  # browsers omit port 80
        self.hosts = (f"127.0.0.1{suffix}", f"localhost{suffix}")
        page = PAGE.read_text(encoding="utf-8")
        for name, value in {
            "labels": ",".join(recognizer.labels),
            "most_bytes": str(MAX_UPLOAD_BYTES),
        }.items():
            page = page.replace("{{" + name + "}}", html.escape(value))
        self.page = page.encode()
        self.headers = {
            "Content-Security-Policy": "; ".join(
                [
                    "default-src 'none'",
                    f"script-src {_hash_of('script', page)}",
                    f"style-src {_hash_of('style', page)}",
                    "img-src 'self' blob: data:",
                    "connect-src 'self'",
                    "base-uri 'none'",
                    "form-action 'none'",
                    "frame-ancestors 'none'",
                ]
            ),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",  # with no-referrer, some browsers hide the origin
            "Cache-Control": "no-store",
        }

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report errors other than a browser that disconnects before the response."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps the connection open between strokes
    timeout = STALLED
    disable_nagle_algorithm = True  # otherwise a response's second packet waits 40 ms
    server: DemoServer

    def do_GET(self) -> None:
        hosts = self.headers.get_all("Host", [])
        origin = self.headers.get("Origin")
        methods = METHODS.get(self.path.partition("?")[0])
        # Another site may point its name here (DNS rebinding) or post here from its pages.
        if len(hosts) != 1 or hosts[0] not in self.server.hosts:
            self._refuse(HTTPStatus.FORBIDDEN, f"only {self.server.hosts[0]} is served")
        elif origin not in (None, f"http://{hosts[0]}"):
            self._refuse(HTTPStatus.FORBIDDEN, "pages of other sites are not served")
        elif methods is None:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")
        elif self.command not in methods:
            allowed = ", ".join(methods)
            self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, f"use {allowed}", Allow=allowed)
        elif self.command == "POST":
            self._predict()
        else:
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET  # noqa: N815

    def _predict(self) -> None:
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not re.fullmatch("[0-9]{1,18}", length):
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "the request must say its length in bytes")
            return
        if int(length) > MAX_UPLOAD_BYTES:
            self._refuse(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"this file has more than the {MAX_UPLOAD_BYTES // 1_000_000} MB allowed",
            )
            return
        picture = self.rfile.read(int(length))
        if len(picture) < int(length):  # the browser disconnected
            self.close_connection = True
            return
        try:
            prediction = self.server.recognizer.predict(picture)
        except PictureError as error:
            self._send_json(HTTPStatus.BAD_REQUEST, {"error": f"this file {error.reason}"})
        else:
            self._send_json(HTTPStatus.OK, _as_json(prediction))

    def _refuse(self, status: HTTPStatus, message: str, **headers: str) -> None:
        # Close the connection, since the request's body was not read.
        self._send_json(status, {"error": message}, Connection="close", **headers)

    def _send_json(self, status: HTTPStatus, content: dict[str, Any], **headers: str) -> None:
        self._send(status, "application/json", json.dumps(content).encode(), **headers)

    def _send(self, status: HTTPStatus, kind: str, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def end_headers(self) -> None:
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a line per stroke helps nobody."""


def _hash_of(tag: str, page: str) -> str:
    """Return the Content-Security-Policy hash that allows only the page's own `tag`."""
    [content] = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _as_json(prediction: Prediction) -> dict[str, Any]:
    image = prediction.image
    return {
        "label": prediction.label,
        "probability": prediction.probability,
        "probabilities": dict(prediction.probabilities),
        "warning": prediction.warning,
        "image": None if image is None else base64.b64encode(image.tobytes()).decode(),
    }
