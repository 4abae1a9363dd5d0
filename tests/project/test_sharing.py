"""What docs/sharing.md promises of a remote: one that is a folder, and one that speaks S3."""

import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from conftest import Project, flipped
from moto.server import ThreadedMotoServer

MODEL = "models/mnist_cnn.onnx"
WEIGHTS = "models/model.safetensors"
SECRET = secrets.token_hex()

Join = Callable[[], Project]


@pytest.fixture(scope="module")
def author(pristine: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A small project that was run, and shares its files through a folder."""
    place = tmp_path_factory.mktemp("sharing")
    author = Project(place / "author")
    shutil.copytree(pristine.folder, author.folder, symlinks=True)
    author.run("dvc", "remote", "add", "--default", "storage", str(place / "storage"))
    author.run("dvc", "remote", "modify", "storage", "verify", "true")
    author.commit("Share through a folder")
    author.run("dvc", "push")
    return author


@pytest.fixture
def join(author: Project, tmp_path: Path) -> Join:
    """Make a fresh clone of the author's, with an empty cache."""
    return lambda: author.clone(tmp_path / "colleague")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server that speaks S3 and has the bucket `digits`; its keys are free."""
    serving = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    serving.start()
    host, port = serving.get_host_and_port()
    address = f"http://{host}:{port}"
    requests.put(f"{address}/digits", timeout=10).raise_for_status()
    yield address
    serving.stop()


def give_keys(project: Project) -> None:
    for key in ("access_key_id", "secret_access_key"):
        project.run("dvc", "remote", "modify", "--local", "s3", key, SECRET)


def use_s3(project: Project, address: str, bucket: str = "digits") -> None:
    project.run("dvc", "remote", "add", "--force", "--default", "s3", f"s3://{bucket}/mnist-cnn")
    project.run("dvc", "remote", "modify", "s3", "endpointurl", address)
    project.run("dvc", "remote", "modify", "s3", "verify", "true")
    give_keys(project)


def object_of(project: Project, name: str, cache: Path) -> Path:
    """Where a cache or a folder remote keeps the output `name`."""
    stages = project.read("dvc.lock")["stages"].values()
    outputs = [out for stage in stages for out in stage["outs"]]
    (digest,) = (out["md5"] for out in outputs if out["path"] == name)
    return cache / "files/md5" / digest[:2] / digest[2:]


def storage(author: Project) -> Path:
    return author.folder.parent / "storage"


def assert_nothing_is_left_to_do(colleague: Project, author: Project) -> None:
    assert "up to date" in colleague.run("dvc", "status").stdout
    assert colleague.repro() == []
    assert colleague.hashes() == author.hashes()
    assert colleague.run("git", "status", "--porcelain").stdout == ""


def test_a_clone_pulls_from_a_folder_or_s3_and_runs_nothing_and_no_key_is_in_git(
    author: Project, join: Join, server: str
) -> None:
    pushing = join()
    assert not (pushing.folder / MODEL).exists()
    pushing.run("dvc", "pull")
    assert_nothing_is_left_to_do(pushing, author)
    use_s3(pushing, server)
    pushing.commit("Share through S3")
    assert "12 files pushed" in pushing.run("dvc", "push").stdout
    assert SECRET in (pushing.folder / ".dvc/config.local").read_text()
    assert pushing.run("git", "grep", SECRET, "HEAD", check=False).stdout == ""

    pulling = pushing.clone(pushing.folder.with_name("pulling"))
    give_keys(pulling)
    pulling.run("dvc", "pull")
    assert_nothing_is_left_to_do(pulling, author)


def test_earlier_results_come_without_training(author: Project, join: Join) -> None:
    """By a commit, by an experiment, and by its settings alone from a cache that was copied."""
    before = author.hashes()
    author.run("dvc", "exp", "run", "--name", "seven", "-S", "train.seed=7", "train")
    after = author.hashes()
    assert after != before
    bare = author.folder.with_name("origin.git")
    author.run("git", "clone", "--quiet", "--bare", str(author.folder), str(bare))
    author.run("git", "remote", "add", "origin", str(bare))
    author.run("dvc", "exp", "push", "origin", "seven")

    colleague = join()
    colleague.run("git", "remote", "set-url", "origin", str(bare))
    colleague.run("dvc", "exp", "pull", "origin", "seven")
    colleague.run("dvc", "exp", "apply", "seven")
    assert "Running" not in colleague.run("dvc", "repro", "train").stdout
    assert (colleague.folder / WEIGHTS).read_bytes() == (author.folder / WEIGHTS).read_bytes()
    colleague.commit("Take seed 7")

    # Back to an earlier commit's settings and results.
    colleague.run("git", "checkout", "HEAD~1", "--", "params.yaml", "dvc.lock", "metrics")
    colleague.run("dvc", "pull")
    assert colleague.repro() == []
    assert colleague.hashes() == before
    colleague.run("git", "checkout", "--quiet", "HEAD", "--", ".")

    # To settings of which no commit is known, by the cache.
    shutil.copytree(author.folder / ".dvc/cache", storage(author), dirs_exist_ok=True)
    shutil.rmtree(colleague.folder / ".dvc/cache")
    colleague.set(**{"train.seed": 0})
    output = colleague.run("dvc", "repro", "--pull").stdout
    assert "Stage 'train' is cached" in output
    assert "Running stage" not in output
    assert colleague.hashes() == before
    author.run("git", "checkout", "--quiet", ".")
    author.run("dvc", "checkout", "--quiet")


def test_a_damaged_object_is_refused_and_can_be_mended(author: Project, join: Join) -> None:
    damaged = object_of(author, MODEL, storage(author))
    sound = damaged.read_bytes()
    mode = damaged.stat().st_mode
    damaged.chmod(0o644)
    damaged.write_bytes(flipped(sound, 20_000))
    damaged.chmod(mode)  # read-only, as DVC left it: without `verify`, that alone is trusted

    colleague = join()
    assert MODEL in colleague.refused("dvc", "pull")
    assert not (colleague.folder / MODEL).exists()

    assert colleague.repro() == ["export"]
    assert (colleague.folder / MODEL).read_bytes() == sound
    damaged.unlink()  # `dvc push` does not replace what is there
    colleague.run("dvc", "push")
    assert damaged.read_bytes() == sound


@pytest.mark.parametrize(
    ("address", "bucket", "said"),
    [
        ("http://127.0.0.1:9", "digits", "Could not connect to the endpoint URL"),  # nobody listens
        (None, "nowhere", "The specified bucket does not exist"),
        (None, "digits", "Forbidden"),
    ],
    ids=["no server", "no bucket", "unknown keys"],
)
def test_a_server_that_does_not_serve_is_told(
    address: str | None,
    bucket: str,
    said: str,
    join: Join,
    server: str,
    request: pytest.FixtureRequest,
) -> None:
    def check_keys_after(calls: str) -> None:
        requests.post(f"{server}/moto-api/reset-auth", data=calls, timeout=10).raise_for_status()

    if said == "Forbidden":
        check_keys_after("0")
        request.addfinalizer(lambda: check_keys_after("inf"))
    colleague = join()
    use_s3(colleague, address or server, bucket)
    assert said in colleague.refused("env", "AWS_MAX_ATTEMPTS=1", "dvc", "pull")
    assert not (colleague.folder / WEIGHTS).exists()


def test_without_the_extra_its_package_is_named(join: Join, server: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['dvc_s3'] = None\n")
    colleague = join()
    use_s3(colleague, server)
    told = colleague.refused("env", f"PYTHONPATH={tmp_path}", "dvc", "pull")
    assert "requires 'dvc-s3' to be installed" in told
