"""Draw predictions onto their picture."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.core.files import replacing
from mnist_cnn.imaging.load import load_color
from mnist_cnn.reader.recognizer import Prediction

SURE, DOUBTFUL = "#1a7f37", "#c62828"


def draw_boxes(picture: str | bytes, predictions: Sequence[Prediction], path: Path) -> None:
    """Write `picture`, upright, to `path`, with a box and a label for each of `predictions`.

    Boxes are green, or red if there is a warning.

    Raises:
        MnistCnnError: if the suffix of `path` is not that of a picture format, or its folder does
            not exist.
        OSError: if `path` cannot be written.
    """
    form = Image.registered_extensions().get(path.suffix.lower())
    if form not in Image.SAVE:
        raise MnistCnnError(f"{path}: give it the ending of a picture, as .png or .jpg")
    if not path.parent.is_dir():
        raise MnistCnnError(f"{path}: there is no folder {path.parent}")
    drawing = load_color(picture)
    draw = ImageDraw.Draw(drawing)
    line = max(1, max(drawing.size) // 500)
    for prediction in predictions:
        box = prediction.box
        if box is None or prediction.label is None:
            continue
        color = DOUBTFUL if prediction.warning else SURE
        edges = (box.left - 2 * line, box.top - 2 * line, box.right + line, box.bottom + line)
        draw.rectangle(edges, outline=color, width=line)
        font = ImageFont.load_default(max(10, box.height // 3))
        draw.text(edges[:2], prediction.label, fill=color, font=font, anchor="lb")
    with replacing(path) as partial:
        drawing.save(partial, form)
