"""The fonts that synthetic digits and letters are drawn with: pinned, and checked by SHA-256.

Handwriting and print, from npm's `@fontsource` packages, under the SIL Open Font License or the
Apache License 2.0.
"""

import hashlib
import re
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from mnist_cnn.core.errors import one_line
from mnist_cnn.core.files import replacing
from mnist_cnn_train.download.attempts import SourceError, try_each
from mnist_cnn_train.download.npm import pack

# A line for each font: the SHA-256 of its file, and the package with its version.
LIST = Path(__file__).with_name("fonts.sha256")
MAX_FONT_BYTES = 1_000_000
MADE = (1980, 1, 1, 0, 0, 0)  # as if all fonts were: the archive's bytes depend on them alone


def known_fonts() -> dict[str, tuple[str, str]]:
    """Return the version and the SHA-256 of each font by name."""
    lines = (re.split(r"\s+|@", line) for line in LIST.read_text().splitlines())
    return {name: (version, digest) for digest, name, version in lines}


def download_fonts(sources: Iterable[str], destination: Path) -> str:
    """Write all fonts to the ZIP archive `destination`, each under its name.

    Args:
        sources: as in `data.sources`, tried in order; of these, ``npm`` has the fonts, and
            ``folder:PATH`` if it contains files such as ``caveat-latin-400-normal.woff``.
        destination: written only if all fonts match their SHA-256.

    Returns:
        The source that served.

    Raises:
        MnistCnnError: if all sources fail; the message gives the reason for each.
        OSError: if `destination` cannot be written.
    """
    return try_each(
        sources, "the fonts", lambda source: write_fonts(dict(_fetch(source)), destination)
    )


def write_fonts(fonts: dict[str, bytes], destination: Path) -> None:
    """Write `fonts`, by their names, as an archive; the same fonts give the same bytes."""
    with replacing(destination) as partial, zipfile.ZipFile(partial, "w") as archive:
        for name, content in sorted(fonts.items()):
            archive.writestr(zipfile.ZipInfo(name, MADE), content)


def _fetch(source: str) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the verified content of each font."""
    if source == "npm":
        found = _from_npm()
    elif source.startswith("folder:"):
        found = _from_folder(Path(source.removeprefix("folder:")))
    else:
        raise SourceError("it has no fonts")
    for name, content in found:
        digest = hashlib.sha256(content).hexdigest()
        _, expected = known_fonts()[name]
        if digest != expected:
            raise SourceError(f"{name} has the SHA-256 {digest}, not {expected}")
        yield name, content


def _file_name(font: str) -> str:
    return f"{font}-latin-400-normal.woff"


def _from_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    for name in known_fonts():
        path = folder / _file_name(name)
        if not path.is_file():
            raise SourceError(f"there is no {path}")
        with path.open("rb") as file:
            yield name, file.read(MAX_FONT_BYTES + 1)


def _from_npm() -> Iterator[tuple[str, bytes]]:
    fonts = known_fonts()
    packages = [f"@fontsource/{name}@{version}" for name, (version, _) in fonts.items()]
    with tempfile.TemporaryDirectory() as scratch:
        pack(packages, Path(scratch))
        for name, (version, _) in fonts.items():
            tarball = Path(scratch) / f"fontsource-{name}-{version}.tgz"
            try:
                with tarfile.open(tarball) as archive:
                    file = archive.extractfile(f"package/files/{_file_name(name)}")
                    yield name, file.read(MAX_FONT_BYTES + 1) if file else b""
            except (tarfile.TarError, EOFError, OSError, KeyError, zlib.error) as error:
                raise SourceError(f"{tarball.name} cannot be read: {one_line(error)}") from error
