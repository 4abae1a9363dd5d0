"""Picture formats: which are read, how files of them begin, and what decoders do not forgive."""

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Other formats are refused before Pillow decodes anything: its EPS decoder runs another program.
FORMATS = (
    *("PNG", "JPEG", "GIF", "BMP", "DIB", "PPM", "WEBP", "TIFF", "AVIF"),
    *("JPEG2000", "ICO", "PCX", "PSD"),
)
SUFFIXES = frozenset(
    {
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".gif", ".bmp", ".dib"),
        *(".pgm", ".ppm", ".pbm", ".pnm", ".pfm", ".webp", ".tif", ".tiff", ".avif", ".avifs"),
        *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ico", ".pcx", ".psd"),
        # Not read, but should not be passed over in silence:
        *(".heic", ".heif", ".hif", ".jxl", ".tga", ".svg", ".qoi", ".pam", ".xbm", ".icns"),
        *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".eps"),
    }
)

# How files begin. These are long enough to recognize a picture in a file of any name.
BEGINNINGS = {
    rb"\x89PNG\r\n\x1a\n": "PNG",
    rb"\xff\xd8\xff": "JPEG",
    rb"GIF8[79]a": "GIF",
    rb"RIFF....WEBP": "WEBP",
    rb"II[*+]\0|MM\0[*+]": "TIFF",
    rb"....ftypavi[fs]": "AVIF",
    rb"....ftyp(hei[cfmsx]|hev[cmsx]|mif1|msf1)": "HEIC",
    rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51": "JPEG2000",
    rb"8BPS": "PSD",
    rb"\xff\x0a|\0\0\0\x0cJXL ": "JPEG XL",
    rb"%PDF-": "PDF",
}
BEGINNING_LENGTH = 12  # bytes, of which the longest has as many
ANY_BEGINNING = re.compile(b"|".join(BEGINNINGS), re.DOTALL)

_stderr = threading.Lock()


def format_of(beginning: bytes) -> str | None:
    """Return the format of a file by its first `BEGINNING_LENGTH` bytes; None if unknown."""
    if not ANY_BEGINNING.match(beginning):  # as for most of a million images
        return None
    for pattern, name in BEGINNINGS.items():
        if re.match(pattern, beginning, re.DOTALL):
            return name
    return None


def without_texts(content: bytes) -> bytes:
    """Return a PNG file without its texts and color profile, whose lengths Pillow limits."""
    kept, place = [content[:8]], 8
    while place < len(content):
        length = int.from_bytes(content[place : place + 4])
        end = place + 12 + length
        if content[place + 4 : place + 8] not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            kept.append(content[place:end])
        place = end
    return b"".join(kept)


@contextmanager
def libtiff_errors() -> Iterator[list[str]]:
    """Collect the errors that libtiff, in the block, writes to the process's standard error.

    The list is filled when the block ends. Without a standard error, it stays empty.
    """
    errors: list[str] = []
    with _stderr, tempfile.TemporaryFile() as file:
        try:
            kept = os.dup(2)
        except OSError:  # closed
            yield errors
            return
        try:
            os.dup2(file.fileno(), 2)
            yield errors
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines = file.read().decode(errors="replace").splitlines()
            # Its warnings are about tags of other programs, which say nothing of the pixels.
            errors += [line for line in lines if ": Warning, " not in line]
