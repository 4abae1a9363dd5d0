"""Inputs of a batch job: a folder of pictures or Parquet files, divided into tasks."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mnist_cnn.core.errors import MnistCnnError, one_line
from mnist_cnn.core.mnist import IMAGE_SIZE
from mnist_cnn.imaging.formats import BEGINNING_LENGTH, format_of
from mnist_cnn.imaging.load import Gray, PictureError, find_pictures, load
from mnist_cnn.imaging.normalize import to_mnist

IMAGE_BYTES = IMAGE_SIZE**2

# Images per part. An interruption loses the parts in progress, but a billion images should not
# become a million files; smaller inputs need enough parts to keep all workers busy. Ready images
# take a fiftieth of the time of pictures, so their parts are fewer and larger.
MAX_PART_SIZE = 65_536
PICTURES_MIN_PART_SIZE, PICTURES_PARTS = 1_024, 64
READY_MIN_PART_SIZE, READY_PARTS = 16_384, 16
ROWS = 1_024  # decoded at a time

# Bytes per column; without it, Arrow reads a row group's whole column at once.
READ_AHEAD = 1 << 20

# What 784 bytes begin with that are a picture, not pixels, and that `format_of` leaves to Pillow.
SHORT_BEGINNINGS = (b"BM", *(b"P%d" % kind for kind in range(1, 7)))
KEYS = ("id", "path")  # default key columns, in order of preference


@dataclass(frozen=True)
class Batch:
    """Decoded images and their keys.

    Attributes:
        keys: Arrow array of length n.
        images: uint8 ``[m, 28, 28]``, the m images that have ink.
        inked: bool ``[n]``, true for those images.
        problems: why an image could not be read, by its index, from 0 to n - 1.
        warnings: what was wrong with a file that could be read, by its index.
    """

    keys: pa.Array
    images: npt.NDArray[np.uint8]
    inked: npt.NDArray[np.bool_]
    problems: dict[int, str]
    warnings: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PicturesTask:
    """Some of a folder's pictures; `names` are relative to it."""

    number: int
    folder: Path
    names: tuple[str, ...]

    key_name = "path"

    def __len__(self) -> int:
        return len(self.names)

    def batches(self) -> Iterator[Batch]:
        """Decode the pictures, `ROWS` at a time."""
        names = iter(self.names)
        while some := list(islice(names, ROWS)):
            keys = pa.array(map(_printable, some), pa.string())
            yield _decoded(keys, (self.folder / name for name in some))


def _printable(name: str) -> str:
    """Escape a file name, which need not be UTF-8, for Arrow, whose strings must be."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


@dataclass(frozen=True)
class Columns:
    """Parquet columns of the images and of their keys; the key None stands for the row number."""

    image: str
    key: str | None


@dataclass(frozen=True)
class Piece:
    """Rows of a Parquet file from `start` up to, but excluding, `stop`."""

    file: Path
    start: int
    stop: int


@dataclass(frozen=True)
class RowsTask:
    """Some rows of Parquet files; `first` is the number of its first row in the whole input."""

    number: int
    first: int
    pieces: tuple[Piece, ...]
    columns: Columns

    key_name = "id"

    def __len__(self) -> int:
        return sum(piece.stop - piece.start for piece in self.pieces)

    def batches(self) -> Iterator[Batch]:
        """Decode the images in the rows; raises MnistCnnError if a file is damaged."""
        number = self.first
        for piece in self.pieces:
            for rows in _rows(piece, self.columns):
                if self.columns.key is None:
                    keys = pa.array(np.arange(number, number + len(rows), dtype=np.int64))
                else:
                    keys = rows.column(self.columns.key)
                number += len(rows)
                yield _images(keys, rows.column(self.columns.image))


Task = PicturesTask | RowsTask


@dataclass(frozen=True)
class PictureFolder:
    """The pictures in a folder and its subfolders.

    Attributes:
        folder: path as given.
        names: sorted paths of the pictures, relative to `folder`.
        fingerprint: SHA-256 of their names and sizes.
    """

    folder: Path
    names: list[str]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.names)

    def described(self) -> dict[str, object]:
        """Describe the input in JSON types; a resumed run must have the same description."""
        return {"pictures": len(self), "sha256": self.fingerprint}

    def tasks(self, size: int) -> Iterator[Task]:
        """Yield one task per `size` pictures."""
        for number, start in enumerate(range(0, len(self), size)):
            yield PicturesTask(number, self.folder, tuple(self.names[start : start + size]))


@dataclass(frozen=True)
class ParquetFiles:
    """The rows of Parquet files with the same columns.

    Attributes:
        files: each file with its number of rows, in order.
        columns: the columns to read.
        ready: whether the images are 28x28 pixels as in MNIST, rather than encoded pictures.
        fingerprint: SHA-256 of the files' names and footers, which hold the sizes of all
            columns and usually their minima and maxima.
    """

    files: list[tuple[Path, int]]
    columns: Columns
    ready: bool
    fingerprint: str

    def __len__(self) -> int:
        return sum(rows for _, rows in self.files)

    def described(self) -> dict[str, object]:
        """Describe the input as `PictureFolder.described` does."""
        return {"rows": len(self), "sha256": self.fingerprint, **asdict(self.columns)}

    def tasks(self, size: int) -> Iterator[Task]:
        """Yield one task per `size` rows; a task may span files."""
        number, pieces, room = 0, [], size
        for file, rows in self.files:
            start = 0
            while start < rows:
                stop = min(rows, start + room)
                pieces.append(Piece(file, start, stop))
                room -= stop - start
                start = stop
                if not room:
                    yield RowsTask(number, number * size, tuple(pieces), self.columns)
                    number, pieces, room = number + 1, [], size
        if pieces:
            yield RowsTask(number, number * size, tuple(pieces), self.columns)


Input = PictureFolder | ParquetFiles


def part_size(found: Input) -> int:
    """Return the default number of images per part."""
    smallest, parts = PICTURES_MIN_PART_SIZE, PICTURES_PARTS
    if isinstance(found, ParquetFiles) and found.ready:
        smallest, parts = READY_MIN_PART_SIZE, READY_PARTS
    return min(MAX_PART_SIZE, max(smallest, -(-len(found) // parts)))


def find_input(source: Path, image: str, key: str | None) -> Input:
    """Find the input at `source`.

    Args:
        source: a Parquet file or a folder.
        image: the Parquet column of the images.
        key: the Parquet column of their keys; None for the first of `KEYS`, or the row number.

    Raises:
        MnistCnnError: if there is no input or a mix of both kinds, or a Parquet file is damaged,
            lacks a column, or has a column of the wrong type.
    """
    if source.is_file():
        return _find_rows([source], source.parent, image, key)
    if not source.is_dir():
        raise MnistCnnError(f"there is no file or folder {source}")
    files = sorted(file for file in source.rglob("*.parquet") if not _is_hidden(file, source))
    names = [str(Path(name).relative_to(source)) for name in find_pictures([str(source)])]
    if files and names:
        raise MnistCnnError(
            f"{source} holds both Parquet files ({files[0].relative_to(source)}) and pictures "
            f"({names[0]}); give a file, or a folder of one kind"
        )
    if files:
        return _find_rows(files, source, image, key)
    if names:
        return PictureFolder(source, names, _fingerprint_pictures(source, names))
    raise MnistCnnError(f"there are no Parquet files or pictures in {source}")


def _is_hidden(file: Path, folder: Path) -> bool:
    """Whether a name starts with . or _, which Spark and Arrow skip as not being data."""
    return any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)


def _fingerprint_pictures(folder: Path, names: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        path = folder / name
        size = path.stat().st_size if path.exists() else -1  # a broken link
        digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _find_rows(files: list[Path], folder: Path, image: str, key: str | None) -> ParquetFiles:
    digest = hashlib.sha256()
    counted: list[tuple[Path, int]] = []
    types: dict[str, pa.DataType] = {}
    for file in files:
        with _opened(file) as opened:
            schema, rows = opened.schema_arrow, opened.metadata.num_rows
        if not counted:
            columns = Columns(image, key or _key(schema))
            types = {
                name: _type(schema, name, file) for name in (columns.image, columns.key) if name
            }
            _check_image(types[columns.image], columns.image, file)
            if columns.key and not _is_key(types[columns.key]):
                raise MnistCnnError(
                    f"{file}: the column {columns.key!r} is of {types[columns.key]}; what names an "
                    "image should be an integer or a string"
                )
        for name, expected in types.items():
            if _type(schema, name, file) != expected:
                raise MnistCnnError(
                    f"{file}: the column {name!r} is of {_type(schema, name, file)}, but of "
                    f"{expected} in {files[0]}; give files of one kind"
                )
        counted.append((file, rows))
        digest.update(f"{file.relative_to(folder)}\0".encode(errors="surrogateescape"))
        digest.update(_footer(file))
    if not sum(rows for _, rows in counted):
        raise MnistCnnError(f"{folder if len(files) > 1 else files[0]} has no rows")
    return ParquetFiles(counted, columns, _is_ready(types[image]), digest.hexdigest())


@contextmanager
def _opened(file: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; Arrow's errors, also those in the block, raise MnistCnnError."""
    try:
        with pq.ParquetFile(file, buffer_size=READ_AHEAD) as opened:
            yield opened
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise MnistCnnError(f"{file} is damaged, or not Parquet: {one_line(error)}") from None


def _footer(file: Path) -> bytes:
    """Return a Parquet file's metadata, which its length (4 bytes) and 4 magic bytes follow."""
    with file.open("rb") as content:
        content.seek(-8, 2)
        length = int.from_bytes(content.read(4), "little")
        content.seek(-8 - length, 2)
        return content.read(length)


def _key(schema: pa.Schema) -> str | None:
    """Return the first of `KEYS` that is a column of a suitable type."""
    for name in KEYS:
        if name in schema.names and _is_key(schema.field(name).type):
            return name
    return None


def _is_key(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string)
    return any(test(kind) for test in tests)


def _type(schema: pa.Schema, name: str, file: Path) -> pa.DataType:
    places = schema.get_all_field_indices(name)
    if len(places) != 1:
        what = "no column" if not places else "several columns"
        raise MnistCnnError(f"{file} has {what} {name!r}; it has: {', '.join(schema.names)}")
    return schema.field(places[0]).type


def _check_image(kind: pa.DataType, name: str, file: Path) -> None:
    inner = kind
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        inner = kind.field("bytes").type
    if not (_is_binary(inner) or _is_ready(kind)):
        raise MnistCnnError(
            f"{file}: the column {name!r} is of {kind}; images should be encoded bytes, a struct "
            f"with such `bytes`, or {IMAGE_BYTES} pixels of uint8, as binary or a list"
        )


def _is_binary(kind: pa.DataType) -> bool:
    return kind in (pa.binary(), pa.large_binary())


def _begins_picture(content: bytes) -> bool:
    """Whether `content`, as long as an image of MNIST's, is an encoded picture."""
    return content.startswith(SHORT_BEGINNINGS) or format_of(content) is not None


def _is_list(kind: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _is_ready(kind: pa.DataType) -> bool:
    """Whether values of this type are always 28x28 pixels, never encoded pictures."""
    return bool(
        kind == pa.binary(IMAGE_BYTES) or (_is_list(kind) and kind.value_type == pa.uint8())
    )


def _rows(piece: Piece, columns: Columns) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a piece in batches.

    Parquet can seek only to row groups: if the piece starts within one, the rows before it are
    decoded and discarded.
    """
    with _opened(piece.file) as opened:
        counts = [
            opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)
        ]
        ends = np.cumsum(counts)
        first, last = np.searchsorted(ends, [piece.start, piece.stop - 1], side="right")
        place = int(ends[first]) - counts[first]
        names = [name for name in (columns.image, columns.key) if name]
        for rows in opened.iter_batches(
            ROWS, row_groups=range(first, last + 1), columns=names, use_threads=False
        ):
            wanted = rows[max(0, piece.start - place) : max(0, piece.stop - place)]
            place += len(rows)
            if len(wanted):
                yield wanted
            if place >= piece.stop:
                break


def _images(keys: pa.Array, values: pa.Array) -> Batch:
    """Decode a column of images."""
    ready = _all_ready(values)
    if ready is None:
        return _decoded(keys, (_content(value.as_py()) for value in values))
    inked = ready.max(axis=(1, 2)) > 0
    return Batch(keys, ready[inked], inked, {})


def _all_ready(values: pa.Array) -> npt.NDArray[np.uint8] | None:
    """Return a column's images as ``[n, 28, 28]`` without a copy; None unless all are ready."""
    if values.null_count:
        return None
    if _is_binary(values.type):
        if not pc.all(pc.equal(pc.binary_length(values), IMAGE_BYTES)).as_py():
            return None
        values = values.cast(pa.binary(IMAGE_BYTES))
        beginnings = _fixed(values)[:, :BEGINNING_LENGTH]
        begun = beginnings[beginnings.any(axis=1)]
        if any(_begins_picture(beginning.tobytes()) for beginning in begun):
            return None
    if values.type == pa.binary(IMAGE_BYTES):
        pixels = _fixed(values)
    elif _is_list(values.type):
        if not pc.all(pc.equal(pc.list_value_length(values), IMAGE_BYTES)).as_py():
            return None
        flat = values.flatten()
        if flat.null_count:
            return None
        pixels = flat.to_numpy()
    else:
        return None
    return pixels.reshape(-1, IMAGE_SIZE, IMAGE_SIZE)


def _fixed(values: pa.Array) -> npt.NDArray[np.uint8]:
    """Return the bytes ``[n, 784]`` of a fixed-size binary array."""
    _, content = values.buffers()
    start = values.offset * IMAGE_BYTES
    pixels = np.frombuffer(content, np.uint8)[start : start + len(values) * IMAGE_BYTES]
    return pixels.reshape(-1, IMAGE_BYTES)


# A picture to preprocess, a ready image, or the reason why there is neither.
Content = Path | bytes | Gray | PictureError


def _content(value: object) -> Content:
    if isinstance(value, dict):
        value = value["bytes"]
    if isinstance(value, list) and None not in value:
        value = bytes(value)
        if len(value) != IMAGE_BYTES:
            return PictureError(f"has {len(value):,} pixels, not {IMAGE_BYTES}")
    if not isinstance(value, bytes):
        return PictureError("is null")
    if len(value) == IMAGE_BYTES and not _begins_picture(value):
        return np.frombuffer(value, np.uint8).reshape(IMAGE_SIZE, IMAGE_SIZE)
    return value


def _decoded(keys: pa.Array, contents: Iterable[Content]) -> Batch:
    """Convert `contents` to MNIST's format; record those that fail as problems."""
    images: list[Gray] = []
    problems: dict[int, str] = {}
    warnings: dict[int, str] = {}
    inked = np.zeros(len(keys), np.bool_)
    for place, content in enumerate(contents):
        try:
            image, warning = _as_mnist(content)
        except MemoryError:
            raise  # not the picture's fault
        except PictureError as error:
            problems[place] = error.reason
        except Exception as error:  # a bug that one picture triggers must not end the job
            problems[place] = f"{type(error).__name__}: {one_line(error)}"
        else:
            if warning:
                warnings[place] = warning
            if image is not None:
                inked[place] = True
                images.append(image)
    stacked = np.stack(images) if images else np.empty((0, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    return Batch(keys, stacked, inked, problems, warnings)


def _as_mnist(content: Content) -> tuple[Gray | None, str | None]:
    """Return the image, None without ink; and a warning of its file."""
    if isinstance(content, PictureError):
        raise content
    if isinstance(content, np.ndarray):
        return content if content.any() else None, None
    found = load(content)
    return to_mnist(found.gray), found.warning
