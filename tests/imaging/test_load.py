import io
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from time_pipeline import PEAK

from mnist_cnn.imaging import load
from mnist_cnn.imaging.formats import FORMATS, SUFFIXES
from mnist_cnn.imaging.load import MAX_PIXELS, MAX_SIDE, PictureError, load_gray


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


def half_and_half() -> Image.Image:
    """Black on the left, white on the right, 8x4."""
    image = Image.new("L", (8, 4), 255)
    image.paste(0, (0, 0, 4, 4))
    return image


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F"])
def test_every_mode_of_pillow_gives_the_same_gray_levels(mode: str) -> None:
    gray = load_gray(half_and_half().convert(mode))
    assert gray.dtype == np.uint8
    np.testing.assert_allclose(gray, half_and_half(), rtol=1 / 255)  # YCbCr rounds


FORMS = (
    *("PNG", "JPEG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "PCX", "MPO"),
    *("JPEG2000", "AVIF"),
)
FILES = [encoded(half_and_half().convert("RGB"), form) for form in FORMS]


@pytest.mark.parametrize("content", FILES, ids=FORMS)
def test_every_usual_format_is_read_from_bytes_and_a_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(content)
    for source in (content, path, str(path)):
        gray = load_gray(source)
        assert gray[:, 0].max() < 5
        assert gray[:, 7].min() > 250


def test_sixteen_bits_are_scaled_rather_than_cut_off() -> None:
    levels = np.array([[0, 32_768, 65_535]], np.uint16)
    for picture in (levels, encoded(Image.fromarray(levels))):
        np.testing.assert_array_equal(load_gray(picture), [[0, 128, 255]])


@pytest.mark.parametrize("bits", [8, 12])
def test_fewer_bits_in_sixteen_keep_their_tones(bits: int) -> None:
    most = 2**bits - 1
    levels = np.array([[0, most // 2, most]], np.uint16)
    for picture in (levels, encoded(Image.fromarray(levels))):
        np.testing.assert_allclose(load_gray(picture), [[0, 127, 255]], atol=1)


def test_a_picture_is_turned_as_its_exif_orientation_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    gray = load_gray(encoded(half_and_half(), exif=exif))
    assert gray.shape == (8, 4)
    assert gray[0].max() == 0  # what was on the left is above
    assert gray[7].min() == 255


@pytest.mark.parametrize("level", [0, 255], ids=["ink is black", "ink is white, and is seen"])
def test_transparent_parts_are_white(level: int) -> None:
    image = Image.new("LA", (2, 1), (level, 0))
    image.putpixel((0, 0), (level, 255))
    np.testing.assert_array_equal(load_gray(image), [[0, 255]])


def test_a_bitmap_whose_fourth_byte_is_unused_is_opaque() -> None:
    pixels = np.asarray(half_and_half().convert("RGB"))
    rows = np.dstack([pixels, np.zeros((4, 8), np.uint8)]).tobytes()
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII4I", 124, 8, -4, 1, 32, 3, len(rows), 0, 0, 0, 0, *masks)
    header = header.ljust(124, b"\0")
    content = b"BM" + struct.pack("<IHHI", 138 + len(rows), 0, 0, 138) + header + rows
    np.testing.assert_array_equal(load_gray(content), half_and_half())


def test_a_png_with_large_texts_is_read() -> None:
    texts = PngInfo()
    texts.add_text("notes", "a" * 2_000_000, zip=True)
    np.testing.assert_array_equal(
        load_gray(encoded(half_and_half(), pnginfo=texts)), half_and_half()
    )


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_exif_that_cannot_be_parsed_does_not_matter(form: str) -> None:
    gray = load_gray(encoded(half_and_half().convert("RGB"), form, exif=b"Exif\0\0garbage"))
    assert gray[:, 0].max() < 5 < 250 < gray[:, 7].min()


def test_premultiplied_gray_in_tiff_is_read() -> None:
    content = encoded(half_and_half().convert("LA"), "TIFF")
    extra_samples = struct.pack("<HHI", 338, 3, 1)
    assert content.count(extra_samples) == 1
    at = content.index(extra_samples) + len(extra_samples)
    premultiplied = content[:at] + b"\1" + content[at + 1 :]
    assert Image.open(io.BytesIO(premultiplied)).mode == "La"
    np.testing.assert_array_equal(load_gray(premultiplied), half_and_half())


def test_further_pages_of_a_tiff_are_a_warning() -> None:
    content = encoded(half_and_half(), "TIFF", save_all=True, append_images=[half_and_half()])
    assert load.load(content).warning == "has 2 pages; only the first is read"
    assert load.load(encoded(half_and_half(), "TIFF")).warning is None


def test_errors_of_libtiff_are_told_of_their_file_alone(capfd: pytest.CaptureFixture[str]) -> None:
    noise = Image.effect_noise((60, 60), 50)
    fax = bytearray(encoded(noise.convert("1"), "TIFF", compression="group4"))
    fax[60:100] = 40 * b"\xff"
    assert "may be damaged (Fax4Decode: " in str(load.load(bytes(fax)).warning)
    deflated = bytearray(encoded(noise, "TIFF", compression="tiff_deflate"))
    deflated[100:120] = 20 * b"\xff"
    with pytest.raises(PictureError, match=r"is damaged \(ZIPDecode: "):
        load_gray(bytes(deflated))
    assert capfd.readouterr().err == ""


def test_of_an_animation_the_first_frame_is_read() -> None:
    frames = [Image.new("L", (4, 4), level) for level in (10, 200)]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (load_gray(content) == 10).all()


def test_a_large_picture_is_reduced_and_says_by_how_much() -> None:
    gray, reduction, _ = load.load(Image.new("L", (3 * MAX_SIDE, MAX_SIDE)))
    assert max(gray.shape) == MAX_SIDE
    assert reduction == 3


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[False, True]]), [[0, 255]]),
        (np.array([[0, 255]], np.uint8), [[0, 255]]),
        (np.array([[0.0, 1.0]], np.float32), [[0, 255]]),
        (np.array([[0.0, 1.0]], np.float16), [[0, 255]]),
        (np.full((1, 2, 1), 7, np.uint8), [[7, 7]]),
        (np.full((1, 2, 3), 7, np.uint8), [[7, 7]]),
        (np.full((1, 2, 4), 255, np.uint8), [[255, 255]]),
        (np.full((1, 2, 3), 0.5), [[128, 128]]),
    ],
)
def test_arrays_of_the_stated_kinds_are_read(values: np.ndarray, expected: list[list[int]]) -> None:
    np.testing.assert_array_equal(load_gray(values), expected)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (np.array([[0.5, np.nan]]), "NaN"),
        (np.array([[0.0, 255.0]]), "outside 0 to 1"),
        (np.zeros((2, 2), np.int64), "of int64; should be"),
        (np.zeros((2, 2), "S1"), r"of \|S1"),
        (np.zeros(5, np.uint8), "shape 5; should be"),
        (np.zeros((2, 2, 2), np.uint8), "shape 2 x 2 x 2; should be"),
        (np.zeros((2, 28, 28, 1), np.uint8), "shape 2 x 28 x 28 x 1; should be"),
        (np.zeros((0, 28), np.uint8), "no pixels"),
        (np.uint8(3)[...], "no axes"),
    ],
)
def test_other_arrays_are_refused_with_the_reason(values: np.ndarray, problem: str) -> None:
    with pytest.raises(PictureError, match=problem):
        load_gray(values)


def test_something_else_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="not <class 'int'>"):
        load_gray(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (lambda: b"", "is empty"),
        (lambda: b"no picture", "not a picture in a format that is read"),
        (lambda: b"\0\0\0\x18ftypheic" + bytes(99), "in the format HEIC, which is not read"),
        (lambda: b"II*\0" + bytes(99), "is damaged, or a kind of TIFF that is not read"),
        (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (lambda: encoded(Image.effect_noise((50, 50), 50))[:1_000], "is damaged"),
        (lambda: encoded(Image.new("1", (20_000, 20_000))), f"{MAX_PIXELS:,} pixels allowed"),
        (lambda: encoded(Image.new("1", (9_000, 9_000))), "9,000 x 9,000 pixels, more than"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason_in_one_line(
    content: Callable[[], bytes], problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "seven.png"
    path.write_bytes(content())
    with pytest.raises(PictureError, match=problem) as raised:
        load_gray(path)
    assert raised.value.source == str(path)
    assert str(raised.value).splitlines() == [f"{path}: {raised.value.reason}"]


def test_an_error_about_bytes_has_no_source_and_survives_another_process() -> None:
    with pytest.raises(PictureError) as raised:
        load_gray(b"")
    for error in (raised.value, pickle.loads(pickle.dumps(raised.value))):
        assert (error.source, error.reason) == (None, "is empty")
        assert str(error) == "the picture: is empty"


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"none\.png: No such file"):
        load_gray(tmp_path / "none.png")
    with pytest.raises(PictureError, match="Is a directory"):
        load_gray(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["P", "RGBA", "I;16"])
def test_the_largest_pictures_take_less_than_a_gigabyte(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new(mode, (7_000, 7_000)).save(path, compress_level=1)
    program = "import sys; from mnist_cnn.imaging.load import load_gray; load_gray(sys.argv[1])"
    command = [sys.executable, "-c", PEAK, sys.executable, "-c", program, path]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(told) < 1_000_000  # kB


def is_read_or_refused(source: bytes | np.ndarray) -> None:
    try:
        gray = load_gray(source)
    except PictureError as error:
        assert "\n" not in str(error)
    else:
        assert (gray.dtype, gray.ndim) == (np.uint8, 2)
        assert gray.size


@pytest.mark.fault
@pytest.mark.fuzz
@given(st.binary(max_size=500))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    is_read_or_refused(content)


@pytest.mark.fault
@pytest.mark.fuzz
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(st.sampled_from(FILES), st.data())
def test_any_damage_to_a_picture_is_survived(content: bytes, data: st.DataObject) -> None:
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    is_read_or_refused(bytes(damaged[: data.draw(st.integers(1, len(damaged)))]))


@pytest.mark.fault
@pytest.mark.fuzz
@given(arrays.arrays(arrays.scalar_dtypes(), st.lists(st.integers(0, 12), max_size=4).map(tuple)))
def test_any_array_is_read_or_refused(values: np.ndarray) -> None:
    is_read_or_refused(np.asarray(values))


def test_names_stand_for_files_folders_and_patterns_in_order(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for name in ("b.png", "a.JPG", "notes.txt", "inner/c.webp"):
        (tmp_path / name).touch()
    found = load.find_pictures(["-", f"{tmp_path}/none.png", f"{tmp_path}", f"{tmp_path}/*.txt"])
    names = ("none.png", "a.JPG", "b.png", "inner/c.webp", "notes.txt")
    assert list(found) == ["-", *(f"{tmp_path}/{name}" for name in names)]


def test_what_macos_adds_and_folders_are_no_pictures_but_unread_formats_are(tmp_path: Path) -> None:
    for name in ("a.jfif", "b.heic", "._a.jpg", "__MACOSX/a.jpg", "d.png/e.pnm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "scan").write_bytes(encoded(half_and_half()))
    found = load.find_pictures([str(tmp_path)])
    assert [Path(name).name for name in found] == ["a.jfif", "b.heic", "e.pnm", "scan"]


def test_every_suffix_of_a_format_that_is_read_is_known() -> None:
    suffixes = {suffix for suffix, form in Image.registered_extensions().items() if form in FORMATS}
    assert suffixes <= SUFFIXES


def test_a_picture_to_draw_on_keeps_its_size_tones_and_colors() -> None:
    levels = np.array([[0, 2_000, 4_095]], np.uint16)
    tones = np.asarray(load.load_color(encoded(Image.fromarray(levels))))
    np.testing.assert_array_equal(tones, [[[0] * 3, [125] * 3, [255] * 3]])
    red = Image.new("RGBA", (3_000, 2), "red")
    red.putpixel((0, 0), (0, 0, 0, 0))
    drawn_on = load.load_color(encoded(red))
    assert drawn_on.size == (3_000, 2)
    assert [drawn_on.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (255, 0, 0)]
