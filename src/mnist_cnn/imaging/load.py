"""Load any picture as gray levels: decoded, upright, on white, and of bounded size."""

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from glob import glob
from os import PathLike, fspath
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from mnist_cnn.core.errors import MnistCnnError, one_line
from mnist_cnn.imaging.formats import (
    BEGINNING_LENGTH,
    FORMATS,
    SUFFIXES,
    format_of,
    libtiff_errors,
    without_texts,
)

Picture = str | PathLike[str] | bytes | Image.Image | npt.NDArray[np.generic]
Gray = npt.NDArray[np.uint8]

MAX_PIXELS = 50_000_000  # a good camera's; up to 800 MB when decoded and copied
MAX_FILE_BYTES = 256_000_000
MAX_SIDE = 2_000  # more pixels do not improve accuracy on a page of handwriting
FLAT = 8  # a channel with a smaller range of values contains no drawing

Converted = TypeVar("Converted")
UPRIGHT = {  # by the value of EXIF's orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Loaded(NamedTuple):
    """A loaded picture.

    Attributes:
        gray: gray levels, uint8 ``[height, width]``, 0 is black.
        reduction: factor by which its sides were reduced, for example 2 for halved sides.
        warning: what was wrong with the file, or left out of it; None if nothing.
    """

    gray: Gray
    reduction: float
    warning: str | None = None


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
            yield from sorted(str(file) for file in path.rglob("*") if is_picture(file))
        # Path.glob does not accept absolute patterns.
        elif not path.exists() and (matching := sorted(glob(name, recursive=True))):  # noqa: PTH207
            yield from matching
        else:
            yield name


def is_picture(file: Path) -> bool:
    """Return whether a file in a folder is meant to be a picture, by its name or its content."""
    if file.is_dir() or file.name.startswith("._") or "__MACOSX" in file.parts:  # added by macOS
        return False
    if file.suffix.lower() in SUFFIXES:
        return True
    if file.name.startswith(".") or not file.is_file():
        return False
    with suppress(OSError), file.open("rb") as content:
        return format_of(content.read(BEGINNING_LENGTH)) not in (None, "PDF")
    return False


def load_gray(picture: Picture) -> Gray:
    """Decode `picture` into gray levels, uint8 ``[height, width]``, 0 is black.

    The EXIF orientation is applied. Transparency becomes white, or black if the drawing is white.
    Only the first frame or page is used. Pictures longer than `MAX_SIDE` are downscaled to it.

    Args:
        picture: a file's path or content; a Pillow image; or an array ``[height, width]``,
            optionally with a last axis of 1, 3 (RGB) or 4 (RGBA) channels, of bool, uint8,
            uint16, or floats from 0 to 1.

    Raises:
        PictureError: if `picture` cannot be read, is not a picture, or is too large.
        TypeError: if `picture` has another type.
    """
    return load(picture).gray


def load(picture: Picture) -> Loaded:
    """Load as `load_gray` does; also return the reduction and a warning."""
    return _convert(picture, _to_gray if isinstance(picture, Image.Image) else _first_page)


def load_color(picture: Picture) -> Image.Image:
    """Decode `picture` as `load_gray` does, but into an RGB image of full size, to draw on."""
    return _convert(picture, _to_color)


def _convert(picture: Picture, convert: Callable[[Image.Image], Converted]) -> Converted:
    """Open `picture` and return what `convert` makes of it."""
    if isinstance(picture, np.ndarray):
        return convert(_from_array(picture))
    if isinstance(picture, Image.Image):
        return convert(picture)
    if isinstance(picture, bytes):
        return _decode(io.BytesIO(picture), len(picture), convert)
    if isinstance(picture, str | PathLike):
        with naming_source(picture):
            return _read(Path(picture), convert)
    raise TypeError(
        f"a picture is a path, bytes, an image of Pillow's or an array, not {type(picture)}"
    )


def _read(path: Path, convert: Callable[[Image.Image], Converted]) -> Converted:
    try:
        with path.open("rb") as file:
            if path.is_file():
                return _decode(file, path.stat().st_size, convert)
            content = file.read(MAX_FILE_BYTES + 1)  # a pipe has no size, and is read only once
        return _decode(io.BytesIO(content), len(content), convert)
    except OSError as error:
        raise PictureError(error.strerror or one_line(error)) from None


def _decode(file: IO[bytes], size: int, convert: Callable[[Image.Image], Converted]) -> Converted:
    if size == 0:
        raise PictureError("is empty")
    if size > MAX_FILE_BYTES:
        raise PictureError(f"has {size:,} bytes, more than the {MAX_FILE_BYTES:,} allowed")
    form = format_of(file.read(BEGINNING_LENGTH))
    file.seek(0)
    try:
        with _open(file, form) as image:
            return convert(image)
    except PictureError:
        file.seek(0)
        if form != "PNG" or len(content := file.read()) == len(lean := without_texts(content)):
            raise
    with _open(io.BytesIO(lean), form) as image:
        return convert(image)


def _open(file: IO[bytes], form: str | None) -> Image.Image:
    """Open a file of the format `form`, None for an unknown one, without decoding its pixels."""
    try:
        return Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:
        raise PictureError(
            f"has more than the {MAX_PIXELS:,} pixels allowed; make it smaller"
        ) from None
    except Exception:  # on a damaged header, Pillow's plugins may raise anything
        if form in FORMATS:
            reason = f"is damaged, or a kind of {form} that is not read"
        elif form:
            reason = f"is in the format {form}, which is not read; convert it to PNG or JPEG"
        else:
            reason = f"is not a picture in a format that is read ({', '.join(FORMATS)})"
        raise PictureError(reason) from None


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise PictureError(
            f"has {width:,} x {height:,} pixels, more than the {MAX_PIXELS:,} allowed; "
            "make it smaller"
        )
    if not width or not height:
        raise PictureError("has no pixels")


def _first_page(image: Image.Image) -> Loaded:
    """Convert the first page of a file, and say so if it has more."""
    loaded, pages = _to_gray(image), 1
    if image.format == "TIFF":
        with suppress(Exception):  # a damaged second page does not matter
            pages = getattr(image, "n_frames", 1)
    if pages == 1 or loaded.warning:
        return loaded
    return loaded._replace(warning=f"has {pages} pages; only the first is read")


def _to_gray(image: Image.Image) -> Loaded:
    _check_size(image)
    longest = max(image.size)
    with _damage_reported():
        if image.format in ("JPEG", "MPO"):
            image.draft("L", (MAX_SIDE, MAX_SIDE))  # decodes at a lower resolution if possible
        upright, warning = _upright(image)
        gray = _levels(upright, max(1, max(upright.size) // MAX_SIDE))
    reduction = max(1.0, max(gray.shape) / MAX_SIDE)
    if reduction > 1:
        rows, columns = (max(1, round(side / reduction)) for side in gray.shape)
        resized = cv2.resize(gray, (columns, rows), interpolation=cv2.INTER_AREA)
        gray = resized.astype(np.uint8)
    return Loaded(gray, longest / max(gray.shape), warning)


def _to_color(image: Image.Image) -> Image.Image:
    _check_size(image)
    with _damage_reported():
        upright, _ = _upright(image)
        if upright.mode.startswith(("I", "F")):
            upright = Image.fromarray(_levels(upright, 1))
        return _on_white(_plain(upright)).convert("RGB")


@contextmanager
def _damage_reported() -> Iterator[None]:
    """Turn whatever Pillow raises on a damaged body into a `PictureError`."""
    try:
        yield
    except PictureError:
        raise
    except Exception as error:
        raise PictureError(f"is damaged ({one_line(error)})") from None


def _upright(image: Image.Image) -> tuple[Image.Image, str | None]:
    """Decode the pixels of `image`; return them upright, and a warning."""
    warning = None
    if image.format == "TIFF":
        warning = _load_tiff(image)
    image.load()
    orientation = 1
    with suppress(Exception):  # EXIF that cannot be parsed does not matter
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    is_bitmap = image.format in ("BMP", "DIB")
    if is_bitmap and image.mode == "RGBA" and not image.getchannel("A").getbbox():
        image = image.convert("RGB")  # as most programs, which leave the fourth byte unused
    if orientation in UPRIGHT:
        image = image.transpose(UPRIGHT[orientation])
    return image, warning


def _load_tiff(image: Image.Image) -> str | None:
    """Decode the pixels of `image`; return a warning of damage."""
    errors: list[str] = []
    try:
        with libtiff_errors() as errors:
            image.load()
    except Exception as error:
        raise PictureError(f"is damaged ({one_line(errors[0] if errors else error)})") from None
    return f"may be damaged ({one_line(errors[0])})" if errors else None


def _levels(image: Image.Image, factor: int) -> Gray:
    """Convert a Pillow image of any mode to gray levels, with sides reduced by about `factor`."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        is_unsigned = values.dtype.kind == "u"
        values = values.astype(np.uint16 if is_unsigned else np.float32, copy=False)
        most = _most(values) if is_unsigned else None
        if factor > 1:
            size = (max(1, image.width // factor), max(1, image.height // factor))
            values = np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA))
        return _stretched(values, most)
    return np.asarray(_on_white(_plain(image).reduce(factor)).convert("L"))


def _plain(image: Image.Image) -> Image.Image:
    """Convert a Pillow image of any mode but those of more than 8 bits to L, RGB or RGBA."""
    if image.mode == "La":
        image = image.convert("LA")  # from which alone Pillow converts to others
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """Make transparency white, or the drawing black if it is white itself."""
    if image.mode != "RGBA":
        return image
    white = Image.new("RGBA", image.size, "white")
    seen = Image.alpha_composite(white, image)
    alpha = np.asarray(image.getchannel("A"))
    if np.ptp(np.asarray(seen.convert("L"))) < FLAT <= np.ptp(alpha):
        return Image.fromarray(255 - alpha)
    return seen


def _most(values: npt.NDArray[np.uint16]) -> float:
    """Return the largest value of as many bits, from 8 to 16, as `values` take."""
    return float(max(255, 2 ** int(values.max()).bit_length() - 1))


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
        levels = _stretched(values, _most(values.astype(np.uint16, copy=False)))
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
