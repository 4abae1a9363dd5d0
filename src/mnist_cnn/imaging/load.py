"""Load any picture as gray levels: decoded, upright, on white, and of bounded size."""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from glob import glob
from os import PathLike, fspath
from pathlib import Path
from typing import IO

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from mnist_cnn.core.errors import MnistCnnError, one_line

Picture = str | PathLike[str] | bytes | Image.Image | npt.NDArray[np.generic]
Gray = npt.NDArray[np.uint8]

# Other formats are refused before Pillow decodes anything: its EPS decoder runs another program.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP", "TIFF")
SUFFIXES = frozenset(
    {
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".dib"),
        *(".pgm", ".ppm", ".pbm", ".pnm", ".webp", ".tif", ".tiff"),
        *(".heic", ".heif", ".avif"),  # are not read, but should not be passed over in silence
    }
)
MAX_PIXELS = 50_000_000  # a good camera's; up to 800 MB when decoded and copied
MAX_FILE_BYTES = 256_000_000
MAX_SIDE = 2_000  # more pixels do not improve accuracy on a page of handwriting
FLAT = 8  # a channel with a smaller range of values contains no drawing


class PictureError(MnistCnnError):
    """A picture cannot be used.

    Attributes:
        reason: why, for example ``is empty``.
        source: path of the picture; None if it was given as bytes, an image or an array.
    """

    def __init__(self, reason: str, source: str | None = None) -> None:
        super().__init__(reason, source)
        self.reason = reason
        self.source = source

    def __str__(self) -> str:
        return f"{self.source or 'the picture'}: {self.reason}"


def source_of(picture: Picture) -> str | None:
    """Return the path of `picture` as given; None if it is not a path."""
    return fspath(picture) if isinstance(picture, str | PathLike) else None


@contextmanager
def naming_source(picture: Picture) -> Iterator[None]:
    """Set the source of any `PictureError` raised in the block to `picture`."""
    try:
        yield
    except PictureError as error:
        error.source = source_of(picture)
        raise


def find_pictures(names: Iterable[str]) -> Iterator[str]:
    """Expand `names`: files, folders (with subfolders), glob patterns, and ``-``.

    Yields in the order of `names`; within a folder or a pattern, sorted by name. Missing files are
    yielded too, so that loading them reports the error.
    """
    for name in names:
        path = Path(name)
        if path.is_dir():
            yield from sorted(str(file) for file in path.rglob("*") if _is_picture(file))
        # Path.glob does not accept absolute patterns.
        elif not path.exists() and (matching := sorted(glob(name, recursive=True))):  # noqa: PTH207
            yield from matching
        else:
            yield name


def _is_picture(file: Path) -> bool:
    """Return whether a file in a folder is meant to be a picture, by its name."""
    added_by_macos = file.name.startswith("._") or "__MACOSX" in file.parts
    return file.suffix.lower() in SUFFIXES and not added_by_macos and not file.is_dir()


def load_gray(picture: Picture) -> Gray:
    """Decode `picture` into gray levels, uint8 ``[height, width]``, 0 is black.

    The EXIF orientation is applied. Transparency becomes white, or black if the drawing is white.
    Only the first frame is used. Pictures longer than `MAX_SIDE` are downscaled to it.

    Args:
        picture: a file's path or content; a Pillow image; or an array ``[height, width]``,
            optionally with a last axis of 1, 3 (RGB) or 4 (RGBA) channels, of bool, uint8,
            uint16, or floats from 0 to 1.

    Raises:
        PictureError: if `picture` cannot be read, is not a picture, or is too large.
        TypeError: if `picture` has another type.
    """
    return load_reduced(picture)[0]


def load_reduced(picture: Picture) -> tuple[Gray, float]:
    """Load as `load_gray` does; also return the reduction, for example 2 for halved sides."""
    if isinstance(picture, np.ndarray):
        return _to_gray(_from_array(picture))
    if isinstance(picture, Image.Image):
        return _to_gray(picture)
    if isinstance(picture, bytes):
        return _decode(io.BytesIO(picture), len(picture))
    if isinstance(picture, str | PathLike):
        with naming_source(picture):
            return _read(Path(picture))
    raise TypeError(
        f"a picture is a path, bytes, an image of Pillow's or an array, not {type(picture)}"
    )


def _read(path: Path) -> tuple[Gray, float]:
    try:
        with path.open("rb") as file:
            if path.is_file():
                return _decode(file, path.stat().st_size)
            content = file.read(MAX_FILE_BYTES + 1)  # a pipe has no size, and is read only once
        return _decode(io.BytesIO(content), len(content))
    except OSError as error:
        raise PictureError(error.strerror or one_line(error)) from None


def _decode(file: IO[bytes], size: int) -> tuple[Gray, float]:
    if size == 0:
        raise PictureError("is empty")
    if size > MAX_FILE_BYTES:
        raise PictureError(f"has {size:,} bytes, more than the {MAX_FILE_BYTES:,} allowed")
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:
        raise PictureError(
            f"has more than the {MAX_PIXELS:,} pixels allowed; make it smaller"
        ) from None
    except Exception:  # on a damaged header, Pillow's plugins may raise anything
        raise PictureError(
            f"is not a picture in a format that is read ({', '.join(FORMATS)})"
        ) from None
    with image:
        return _to_gray(image)


def _to_gray(image: Image.Image) -> tuple[Gray, float]:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise PictureError(
            f"has {width:,} x {height:,} pixels, more than the {MAX_PIXELS:,} allowed; "
            "make it smaller"
        )
    if not width or not height:
        raise PictureError("has no pixels")
    try:
        if image.format == "JPEG":
            image.draft("L", (MAX_SIDE, MAX_SIDE))  # decodes at a lower resolution if possible
        gray = _levels(ImageOps.exif_transpose(image))
    except Exception as error:  # as above, for a damaged body
        raise PictureError(f"is damaged ({one_line(error)})") from None
    reduction = max(1.0, max(gray.shape) / MAX_SIDE)
    if reduction > 1:
        rows, columns = (max(1, round(side / reduction)) for side in gray.shape)
        resized = cv2.resize(gray, (columns, rows), interpolation=cv2.INTER_AREA)
        gray = resized.astype(np.uint8)
    return gray, max(width, height) / max(gray.shape)


def _levels(image: Image.Image) -> Gray:
    """Convert a Pillow image of any mode to gray levels."""
    factor = max(1, max(image.size) // MAX_SIDE)
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        most = 65_535.0 if values.dtype == np.uint16 else None
        values = values.astype(np.uint16 if most else np.float32, copy=False)
        if factor > 1:
            size = (max(1, image.width // factor), max(1, image.height // factor))
            values = np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA))
        return _stretched(values, most)
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    image = image.reduce(factor)
    if image.mode != "RGBA":
        return np.asarray(image.convert("L"))
    white = Image.new("RGBA", image.size, "white")
    gray = np.asarray(Image.alpha_composite(white, image).convert("L"))
    alpha = np.asarray(image.getchannel("A"))
    if np.ptp(gray) < FLAT <= np.ptp(alpha):  # drawn in white
        return 255 - alpha
    return gray


def _stretched(values: npt.NDArray[np.generic], most: float | None) -> Gray:
    """Scale to uint8 from 0 to `most`, or from the values' own range if `most` is None."""
    numbers = values.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise ValueError("a value is not finite")
    least = 0.0
    if most is None:
        least, most = float(numbers.min()), float(numbers.max())
    return ((numbers - least) * (255 / max(most - least, 1e-9))).round().astype(np.uint8)


def _from_array(values: npt.NDArray[np.generic]) -> Image.Image:
    shape = " x ".join(map(str, values.shape)) or "no axes"
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (3, 4))):
        raise PictureError(
            f"is an array of shape {shape}; should be [height, width], or with 1, 3 or 4 "
            "channels in a last axis"
        )
    if not values.size:
        raise PictureError(f"is an array of shape {shape}, so it has no pixels")
    if values.size > 4 * MAX_PIXELS:
        raise PictureError(f"is an array of {values.size:,} values; make it smaller")
    if values.dtype == np.bool_:
        levels = values.astype(np.uint8) * np.uint8(255)
    elif values.dtype == np.uint8:
        levels = values.astype(np.uint8, copy=False)
    elif values.dtype == np.uint16:
        levels = _stretched(values, 65_535)
    elif np.issubdtype(values.dtype, np.floating):
        # Comparisons with NaN are false, so test for the valid range.
        if not (float(values.min()) >= 0 and float(values.max()) <= 1):
            raise PictureError("has floats outside 0 to 1, or NaN; scale it to 0 to 1")
        levels = _stretched(values, 1)
    else:
        raise PictureError(
            f"is an array of {values.dtype}; should be bool, uint8, uint16, or floats from 0 to 1"
        )
    return Image.fromarray(np.ascontiguousarray(levels))
