from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.imaging.box import Box
from mnist_cnn.reader.annotate import draw_boxes
from mnist_cnn.reader.recognizer import NO_DIGIT, Prediction

PAPER = cv2.imencode(".png", np.full((100, 200), 255, np.uint8))[1].tobytes()


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_boxes_are_drawn_where_digits_were_found(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"found.{ending}"
    predictions = [
        Prediction("7", 0.9, {}, None, None, Box(20, 30, 50, 80)),
        Prediction("1", 0.9, {}, NO_DIGIT, None, Box(120, 30, 150, 80)),
    ]
    draw_boxes(PAPER, predictions, path)
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert pixels.shape == (100, 200, 3)
    green, red = pixels[30:80, 18], pixels[30:80, 118]
    assert (green[:, 1] > green[:, 0]).mean() > 0.9
    assert (red[:, 0] > red[:, 1]).mean() > 0.9
    assert (pixels[35:75, 25:45] > 240).all()


def test_a_name_without_a_pictures_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MnistCnnError, match="give it the ending of a picture"):
        draw_boxes(PAPER, [], tmp_path / "found.txt")
    assert list(tmp_path.iterdir()) == []
