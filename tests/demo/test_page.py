import base64
import io
import math
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from mnist_cnn.demo.server import MAX_UPLOAD_BYTES, DemoServer
from mnist_cnn.reader.recognizer import NO_DIGIT, Prediction, Recognizer
from mnist_cnn_train.data.dataset import Dataset

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
expect = playwright.expect

BROWSERS = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
CHROMIUM = next(filter(None, BROWSERS), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]

Points = list[tuple[float, float]]  # from 0 to 1 over the sheet
ONE: Points = [(0.52, 0.15), (0.5, 0.85)]
ZERO: Points = [
    (0.5 + 0.2 * math.sin(angle / 12 * math.tau), 0.5 - 0.32 * math.cos(angle / 12 * math.tau))
    for angle in range(13)
]
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True}


@pytest.fixture
def readings(recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The pictures that come to be read, the pause before each, and what is changed after it."""
    readings = SimpleNamespace(pictures=[], pause=0, changes={})

    def predict(picture: bytes) -> Prediction:
        readings.pictures.append(picture)
        time.sleep(readings.pause)
        return replace(Recognizer.predict(recognizer, picture), **readings.changes)

    monkeypatch.setattr(recognizer, "predict", predict)
    return readings


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sandbox = os.geteuid() != 0  # Chromium's refuses to run as root
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=sandbox)
        yield browser
        browser.close()


class Visit:
    """A page, and what it asked for and complained about."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.label, self.photo = page.locator("#label"), page.locator("#photo")
        self.result, self.failure = page.get_by_role("status"), page.get_by_role("alert")
        self.asked: list[str] = []
        self.problems: list[str] = []
        page.set_default_timeout(10_000)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", lambda message: self.problems.append(message.text))

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name)

    def upload(self, content: bytes, name: str = "digit.png") -> None:
        file = {"name": name, "mimeType": "image/png", "buffer": content}
        self.page.set_input_files("#file", file)

    def place(self, point: tuple[float, float]) -> tuple[float, float]:
        box = self.page.locator("#pad").bounding_box()
        return box["x"] + point[0] * box["width"], box["y"] + point[1] * box["height"]

    def draw(self, points: Points, lift: bool = True) -> None:
        first, *rest = map(self.place, points)
        self.page.mouse.move(*first)
        self.page.mouse.down()
        for point in rest:
            self.page.mouse.move(*point, steps=8)
        if lift:
            self.page.mouse.up()

    def draw_one(self) -> None:
        self.draw(ONE)
        expect(self.label).to_have_text("1")

    def drawn(self, canvas: str = "pad") -> bytes:
        """A PNG file; waits until all readings are over."""
        while self.page.evaluate("reading"):
            self.page.wait_for_timeout(20)
        url = self.page.evaluate("(id) => document.getElementById(id).toDataURL()", canvas)
        return base64.b64decode(url.partition(",")[2])

    def seen(self) -> bytes:
        """The levels of the 28x28 image on the page."""
        return Image.open(io.BytesIO(self.drawn("seen"))).convert("L").tobytes()

    def expect_nothing(self) -> None:
        expect(self.label).to_have_text("")
        expect(self.page.locator("#hint")).to_be_visible()
        expect(self.photo).to_be_hidden()
        expect(self.page.locator("#bars .likeliest")).to_have_count(0)
        assert self.seen() == bytes(784)


@pytest.fixture
def visit(browser: Any, demo_server: DemoServer, request: pytest.FixtureRequest) -> Iterator[Visit]:
    address = demo_server.address
    with browser.new_context(**getattr(request, "param", {})) as context:
        visit = Visit(context.new_page())
        visit.page.goto(address)
        yield visit
        # Nothing comes from outside, and the Content-Security-Policy had nothing to block.
        for url in visit.asked:
            assert url.startswith((address, f"blob:{address}", "data:")), url
        assert visit.problems == []


def picture(image: np.ndarray) -> bytes:
    """One of MNIST's images as a PNG file of 280x280 pixels, black on white."""
    large = cv2.resize(255 - image, (280, 280), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".png", large)[1].tobytes()


def test_strokes_are_read_and_cleared(visit: Visit, recognizer: Recognizer) -> None:
    visit.expect_nothing()
    visit.draw_one()
    prediction = recognizer.predict(visit.drawn())
    expect(visit.page.locator("#bars .likeliest")).to_have_text(re.compile(r"^1\d+\.\d %$"))
    expect(visit.page.locator("#bars li")).to_have_text(
        [f"{label}{100 * share:.1f} %" for label, share in prediction.probabilities.items()]
    )
    assert visit.seen() == prediction.image.tobytes()
    expect(visit.page.locator("#note")).to_be_visible(visible=prediction.warning is not None)
    visit.button("Clear").click()
    visit.expect_nothing()
    visit.draw(ZERO)
    expect(visit.label).to_have_text("0")


def test_a_warning_is_shown_with_the_result(visit: Visit, readings: SimpleNamespace) -> None:
    readings.changes = {"warning": NO_DIGIT}
    visit.draw(ONE)
    expect(visit.result).to_contain_text("May not be a digit")
    visit.button("Clear").click()
    expect(visit.result).to_have_text("")


def test_a_stroke_is_read_while_it_is_drawn(visit: Visit) -> None:
    visit.draw(ONE, lift=False)
    expect(visit.label).to_have_text("1")
    expect(visit.result).to_have_attribute("aria-busy", "true")
    visit.page.mouse.up()
    expect(visit.result).to_have_attribute("aria-busy", "false")


def test_one_reading_at_a_time_and_the_last_is_of_the_newest_drawing(
    visit: Visit, readings: SimpleNamespace
) -> None:
    started = time.monotonic()
    waiting = [0]
    visit.page.on("request", lambda _: waiting.append(waiting[-1] + 1))
    visit.page.on("requestfinished", lambda _: waiting.append(waiting[-1] - 1))
    for row in range(6):
        visit.draw([(0.2, 0.2 + row / 10), (0.8, 0.2 + row / 10), (0.2, 0.25 + row / 10)])
    visit.draw([(0.5, 0.5), (0.5, 0.9)])
    assert visit.drawn() == readings.pictures[-1]  # once all readings are over
    assert 2 <= len(readings.pictures) <= 10 * (time.monotonic() - started) + 1
    assert max(waiting) == 1


def test_what_was_cleared_meanwhile_is_not_shown(visit: Visit, readings: SimpleNamespace) -> None:
    readings.pause = 0.3
    with visit.page.expect_response("**/predict"):
        visit.draw(ONE)
        visit.button("Clear").click()
    visit.page.wait_for_timeout(300)
    visit.expect_nothing()


def test_strokes_are_undone_by_button_and_keys(visit: Visit) -> None:
    expect(visit.button("Undo")).to_be_disabled()
    visit.draw(ONE)
    before = visit.drawn()
    visit.draw(ZERO)
    visit.button("Undo").click()
    assert visit.drawn() == before
    expect(visit.label).to_have_text("1")
    visit.page.keyboard.press("Control+z")
    visit.expect_nothing()
    expect(visit.button("Undo")).to_be_disabled()


def test_the_keyboard_reaches_every_button(visit: Visit) -> None:
    # Chromium catches its dialog for choosing files from here on.
    visit.page.on("filechooser", lambda chooser: None)
    visit.draw(ONE)
    for name in ("Clear", "Undo", "Choose a picture…"):
        visit.page.keyboard.press("Tab")
        expect(visit.button(name)).to_be_focused()
    with visit.page.expect_file_chooser():
        visit.page.keyboard.press("Enter")
    visit.page.keyboard.press("Escape")
    visit.expect_nothing()


def test_a_dot_too_small_to_be_a_digit_gets_an_answer(visit: Visit) -> None:
    visit.draw([(0.5, 0.5)])
    expect(visit.label).not_to_have_text("")


def test_a_blank_picture_has_no_ink(visit: Visit) -> None:
    visit.upload(picture(np.zeros((28, 28), np.uint8)))
    expect(visit.result).to_have_text("No ink was found")
    expect(visit.label).to_have_text("")


def test_mnists_own_digits_are_read(
    visit: Visit, recognizer: Recognizer, readings: SimpleNamespace, holdout_digits: Dataset
) -> None:
    for digit in range(10):
        pictures = map(picture, holdout_digits.images[holdout_digits.labels == digit])
        content = next(one for one in pictures if recognizer.predict(one).label == str(digit))
        visit.upload(content)
        expect(visit.label).to_have_text(str(digit))
        expect(visit.photo).to_be_visible()
        assert readings.pictures[-2:] == 2 * [content]  # read above, and sent by the page
    visit.draw(ZERO)  # on a new sheet
    expect(visit.photo).to_be_hidden()
    expect(visit.label).to_have_text("0")


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted(
    visit: Visit, holdout_digits: Dataset, recognizer: Recognizer, way: str
) -> None:
    content = picture(holdout_digits.images[0])
    visit.page.evaluate(
        """([way, base64]) => {
            const content = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
            const given = new DataTransfer();
            given.items.add(new File([content], "digit.png", { type: "image/png" }));
            const event = way === "drop"
                ? new DragEvent("drop", { dataTransfer: given, bubbles: true, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: given, bubbles: true });
            document.getElementById("sheet").dispatchEvent(event);
        }""",
        [way, base64.b64encode(content).decode()],
    )
    expect(visit.label).to_have_text(recognizer.predict(content).label)


def test_what_is_no_picture_is_one_line_on_the_page(visit: Visit) -> None:
    visit.draw_one()
    visit.upload(b"not a picture", "notes.txt")
    line = re.compile(r"^This file is not a picture in a format that is read \(.*\)$")
    expect(visit.failure).to_have_text(line)
    visit.expect_nothing()
    [problem] = visit.problems  # the browser's own note of the refusal
    assert "400 (Bad Request)" in problem
    visit.problems.clear()
    visit.draw(ONE)
    expect(visit.failure).to_have_text("")


def test_too_large_a_file_is_not_even_sent(visit: Visit, readings: SimpleNamespace) -> None:
    visit.upload(bytes(MAX_UPLOAD_BYTES + 1))
    expect(visit.failure).to_have_text("This file has more than the 10 MB allowed")
    visit.expect_nothing()
    assert readings.pictures == []


def test_a_server_that_has_gone_is_told(visit: Visit) -> None:
    visit.page.route("**/predict", lambda route: route.abort("connectionrefused"))
    visit.draw(ONE)
    expect(visit.failure).to_contain_text("is it still running")
    assert all("ERR_CONNECTION_REFUSED" in problem for problem in visit.problems)
    visit.problems.clear()
    visit.page.unroute("**/predict")
    visit.draw([(0.5, 0.5), (0.5, 0.6)])
    expect(visit.label).to_have_text("1")
    visit.problems.clear()


@pytest.mark.parametrize("visit", [PHONE], indirect=True)
def test_a_finger_draws_and_does_not_scroll(visit: Visit) -> None:
    session = visit.page.context.new_cdp_session(visit.page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        places = [dict(zip("xy", visit.place(point), strict=True)) for point in points]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    touch("touchStart", (0.5, 0.9))
    for step in range(20):
        touch("touchMove", (0.5, 0.9 - step / 25))
    touch("touchMove", (0.5, 0.1), (0.9, 0.5))  # a second finger draws nothing
    touch("touchMove", (0.5, 0.1), (0.2, 0.5))
    touch("touchEnd")
    expect(visit.label).to_have_text("1")
    assert visit.page.evaluate("scrollY") == 0


@pytest.mark.parametrize("visit", [PHONE], indirect=True)
def test_a_phones_screen_is_wide_enough(visit: Visit) -> None:
    visit.draw_one()
    assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for name in ("Clear", "Undo", "Choose a picture…"):
        box = visit.button(name).bounding_box()
        assert box["height"] >= 44
        assert box["x"] + box["width"] <= PHONE["viewport"]["width"]


@pytest.mark.parametrize("visit", [{"color_scheme": "dark"}], indirect=True)
def test_in_the_dark_the_same_is_sent(visit: Visit) -> None:
    background = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(17, 20, 25)"
    visit.draw_one()
    drawn = Image.open(io.BytesIO(visit.drawn())).convert("RGBA")
    assert drawn.getpixel((280, 280)) == (0, 0, 0, 255)
