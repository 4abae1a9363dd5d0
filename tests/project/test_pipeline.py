"""The pipeline as users run it: real `dvc` calls on a small part of the real data."""

import inspect
import json
import os
import re
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, Project
from pydantic import BaseModel
from ruamel.yaml import YAML
from test_imports import files_of, imported_names

from mnist_cnn.core.files import sha256
from mnist_cnn_train.data.catalog import SHA256
from mnist_cnn_train.pipeline.params import Params, Section

STAGES = ["download", "train", "evaluate", "export"]
PIPELINE: dict[str, Any] = YAML(typ="safe").load(REPOSITORY / "dvc.yaml")
LOCK = REPOSITORY / "dvc.lock"


def entries(stage: str, kind: str) -> list[str]:
    """What `dvc.yaml` lists under `kind`, without the options of each entry."""
    listed = PIPELINE["stages"][stage].get(kind, [])
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in listed]


def imported(file: Path) -> set[Path]:
    """The modules of the project that `file` imports anywhere, directly or not, and itself."""
    found: set[Path] = set()
    waiting = [file]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            for name in imported_names(module):
                waiting += files_of(name)
    return found


def test_stages_have_the_names_of_their_files_in_the_pipelines_order() -> None:
    assert list(PIPELINE["stages"]) == STAGES
    assert {path.stem for path in (REPOSITORY / "stages").glob("[!_]*.py")} == set(STAGES)
    for stage in STAGES:
        assert PIPELINE["stages"][stage]["cmd"] == f"python stages {stage}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_code_that_it_imports(stage: str) -> None:
    stages = REPOSITORY / "stages"
    modules = imported(stages / f"{stage}.py") | imported(stages / "__main__.py")
    code = {listed_as(path.relative_to(REPOSITORY)) for path in modules}
    assert set(code_of(stage)) == code - {"src/mnist_cnn_train/__init__.py"}  # a docstring alone
    assert len(code_of(stage)) <= 10


def code_of(stage: str) -> list[str]:
    """The dependencies of a stage that are code."""
    return [name for name in entries(stage, "deps") if name.startswith(("src/", "stages/"))]


def listed_as(module: Path) -> str:
    """What a stage lists for it: the package of the project that it belongs to, or itself."""
    return "/".join(module.parts[:3]) if len(module.parts) > 3 else module.as_posix()


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[type[BaseModel], str, str]]:
    """The section, the name and the dotted key of each setting."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from keys(field.annotation, f"{prefix}{name}.")
        else:
            yield model, name, f"{prefix}{name}"


class FileAccess:
    """The files below data/, models/ and metrics/ that this process reads and puts in place.

    Python tells of every file that is opened or renamed through an audit hook, which cannot
    be removed, and is idle unless `folder` is set.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.read: set[str] = set()
        self.written: set[str] = set()
        sys.addaudithook(self.note)

    def start(self, folder: Path) -> None:
        self.folder, self.read, self.written = folder, set(), set()

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None or event not in ("open", "os.rename"):
            return
        name = arguments[0] if event == "open" else arguments[1]
        if isinstance(name, str | bytes | Path):
            path = self.folder / os.fsdecode(name)
            place = os.path.relpath(path, self.folder)
            if place.startswith("data/own/"):
                self.read.add("data/own")
            elif place.startswith(("data/", "models/", "metrics/")) and ".partial" not in place:
                if event == "os.rename":
                    self.written |= {place} if Path(arguments[0]).is_file() else contents(arguments)
                elif path.is_file():
                    self.read.add(place)


def contents(renamed: tuple[Any, ...]) -> set[str]:
    """Where the files of a folder that is being renamed will be."""
    source, target, *_ = renamed
    return {f"{target}/{file.name}" for file in Path(source).iterdir()}


FILES = FileAccess()

# Read where `data.dataset` is no folder (test_sources.py), and by torchrun (test_distributed.py).
NOT_READ_HERE = {"data.sources", "train.processes"}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_exactly_the_settings_and_files_that_it_reads_and_writes(
    stage: str, pristine: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(pristine.folder, folder, ignore=shutil.ignore_patterns(".dvc", ".git"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [f"stages/{stage}.py"])
    known = {(section, name): key for section, name, key in keys(Params)}
    read: set[str] = set()

    def noting(section: Section, name: str) -> Any:
        key = known.get((type(section), name))
        if key:
            read.add(key)
        return BaseModel.__getattribute__(section, name)

    program = runpy.run_path(f"stages/{stage}.py", run_name="stage")
    main: Callable[[], None] = program["main"]
    load_params = program["load_params"]

    def load_then_note() -> Params:
        loaded: Params = load_params()
        monkeypatch.setattr(Section, "__getattribute__", noting, raising=False)
        return loaded

    inspect.unwrap(main).__globals__["load_params"] = load_then_note
    FILES.start(folder)
    main()
    FILES.folder = None
    written = {name for kind in ("outs", "metrics", "plots") for name in entries(stage, kind)}
    assert FILES.read - written == set(entries(stage, "deps")) - set(code_of(stage))
    assert FILES.written == written
    listed = entries(stage, "params")
    declared = {
        key for key in known.values() for entry in listed if f"{key}.".startswith(f"{entry}.")
    }
    assert read == declared - NOT_READ_HERE


def test_training_depends_on_no_test_images() -> None:
    assert [name for name in entries("train", "deps") if "t10k" in name] == []


def test_the_committed_lock_is_of_the_committed_code_settings_and_metrics() -> None:
    lock = YAML(typ="safe").load(LOCK)["stages"]
    assert list(lock) == STAGES
    settings = YAML(typ="safe").load(REPOSITORY / "params.yaml")
    for stage in STAGES:
        assert lock[stage]["cmd"] == PIPELINE["stages"][stage]["cmd"]
        for kind in ("deps", "outs"):
            for entry in lock[stage][kind]:
                path = REPOSITORY / entry["path"]
                in_git = not entry["path"].startswith(("data/", "models/"))
                if in_git and path.suffix in {".py", ".json", ".csv", ".png"}:
                    found = md5(path.read_bytes()).hexdigest()
                    assert found == entry["md5"], f"run `dvc repro`, then commit: {path} differs"
        for key, value in lock[stage]["params"]["params.yaml"].items():
            current = settings
            for part in key.split("."):
                current = current[part]
            assert current == value, f"run `dvc repro`, then commit: {key} differs"


@pytest.mark.slow
def test_the_models_are_small(pristine: Project) -> None:
    models = pristine.folder / "models"
    assert (models / "mnist_cnn.onnx").stat().st_size <= 38_000
    assert (models / "mnist_cnn.int8.onnx").stat().st_size <= 16_100


@pytest.mark.slow
def test_a_second_run_has_nothing_to_do(reproduced: Project) -> None:
    assert reproduced.repro() == []
    assert "up to date" in reproduced.run("dvc", "status").stdout
    assert reproduced.run("git", "status", "--porcelain").stdout == ""


def add_a_line(name: str) -> Callable[[Project], None]:
    def edit(project: Project) -> None:
        path = project.folder / name
        path.write_text(path.read_text() + "\n# edited\n")

    return edit


def set_params(**settings: Any) -> Callable[[Project], None]:
    return lambda project: project.set(**settings)


# What README.md promises to rerun, by the words in its table.
EDITS = {
    "`train.learning_rate`": set_params(**{"train.learning_rate": 0.05}),
    "`evaluate.min_accuracy`": set_params(**{"evaluate.min_accuracy": 0.4}),
    "`export.tolerance`": set_params(**{"export.tolerance": 0.001}),
    "`data.sources`": set_params(**{"data.sources": ["npm"]}),
    "`src/mnist_cnn_train/model/networks.py`": add_a_line("src/mnist_cnn_train/model/networks.py"),
    "`src/mnist_cnn_train/evaluation/figures.py`": add_a_line(
        "src/mnist_cnn_train/evaluation/figures.py"
    ),
    "`src/mnist_cnn_train/export/graph.py`": add_a_line("src/mnist_cnn_train/export/graph.py"),
    "`src/mnist_cnn/cli/main.py`, `recipes.yaml`, `README.md`, a test": lambda project: [
        add_a_line(name)(project)
        for name in (
            "src/mnist_cnn/cli/main.py",
            "recipes.yaml",
            "README.md",
            "tests/model/test_networks.py",
        )
    ],
}


def readme_table() -> dict[str, list[str]]:
    """The table of README.md that starts with "You change"; the stages that each row names."""
    text = (REPOSITORY / "README.md").read_text()
    table = text[text.index("| You change") :].split("\n\n")[0].splitlines()[2:]
    rows = (re.split(r" *\| *", line.strip("| ")) for line in table)
    return {edit: re.findall(r"\w+", stages.replace("nothing", "")) for edit, stages in rows}


def test_the_readmes_table_is_the_one_tested_here() -> None:
    assert readme_table().keys() == EDITS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("edit", EDITS)
def test_only_what_changed_runs_again_and_going_back_runs_nothing(
    edit: str, reproduced: Project
) -> None:
    before = reproduced.hashes("data", "metrics", "models")
    EDITS[edit](reproduced)
    assert reproduced.repro() == readme_table()[edit]
    reproduced.run("git", "checkout", "--quiet", ".")
    assert reproduced.repro() == []  # restored from the cache
    assert reproduced.hashes("data", "metrics", "models") == before
    assert reproduced.run("git", "status", "--porcelain").stdout == ""


@pytest.mark.slow
def test_going_back_after_training_anew_restores_from_the_run_cache(reproduced: Project) -> None:
    before = reproduced.hashes("models")
    reproduced.set(**{"train.seed": 7})
    reproduced.repro()
    assert reproduced.hashes("models") != before
    reproduced.set(**{"train.seed": 0})  # dvc.lock is now the other run's
    output = reproduced.run("dvc", "repro").stdout
    assert "Running stage" not in output
    assert "Stage 'train' is cached - skipping run" in output
    assert reproduced.hashes("models") == before


@pytest.mark.slow
def test_dvcs_comparisons_are_readable(reproduced: Project) -> None:
    reproduced.set(**{"train.seed": 7})
    parameters = reproduced.run("dvc", "params", "diff").stdout
    assert re.search(r"params\.yaml +train\.seed +0 +7", parameters)
    reproduced.repro()
    shown = reproduced.run("dvc", "metrics", "show").stdout
    for name in ("accuracy", "calibration_error", "validation_accuracy", "int8.accuracy"):
        assert name in shown
    changes = reproduced.run("dvc", "metrics", "diff").stdout
    assert re.search(r"metrics/accuracy\.json +negative_log_likelihood +\d", changes)
    page = reproduced.run("dvc", "plots", "diff", "--out", "dvc_plots", "HEAD").stdout
    html = Path(page.strip().removeprefix("file://")).read_text()
    for title in ("Loss", "Validation accuracy", "Confusion matrix", "misclassified.png"):
        assert title in html


@pytest.mark.slow
def test_plots_show_has_each_plot_once(reproduced: Project) -> None:
    reproduced.run("dvc", "plots", "show")
    html = (reproduced.folder / "dvc_plots/index.html").read_text()
    titles = re.findall(r'"title": \{"text": "([^"]+)"', html)
    assert sorted(titles) == ["Confusion matrix", "Loss", "Validation accuracy"]
    pictures = re.findall(r'<img[^>]*src="static/workspace_metrics_plots_(\w+)\.png"', html)
    assert sorted(pictures) == ["curves", "misclassified", "reliability"]


@pytest.mark.slow
def test_experiments_change_a_setting_and_are_compared(reproduced: Project) -> None:
    # The seed that other tests here run as well, so that it comes from the cache.
    gentle = ("-S", "train.seed=7", "-S", "export.tolerance=0.01")
    reproduced.run("dvc", "exp", "run", "--name", "gentle", *gentle)
    rows = json.loads(reproduced.run("dvc", "exp", "show", "--json").stdout)
    assert "gentle" in [experiment["name"] for experiment in rows[1]["experiments"]]
    drop = ".*(class|_95|fp32|int8|opset|metrics|models|sha256)"
    table = reproduced.run("dvc", "exp", "show", "--only-changed", "--drop", drop).stdout
    (row,) = (line for line in table.splitlines() if "gentle" in line)
    assert re.search(r" 0\.01 ", row)
    assert max(map(len, table.splitlines())) < 200
    reproduced.run("dvc", "exp", "remove", "gentle")


@pytest.mark.slow
def test_a_record_recipe_goes_through_the_whole_pipeline(reproduced: Project) -> None:
    """As README.md runs it, but for one epoch and five views; nothing is held out."""
    short = ("-S", "train.epochs=1", "-S", "model.tta_views=5", "-S", "evaluate.min_accuracy=0")
    reproduced.run(
        sys.executable, "-m", "mnist_cnn_train", "run", "record", "--name", "deep", *short
    )
    assert reproduced.run("git", "status", "--porcelain").stdout == ""
    reproduced.run("dvc", "exp", "apply", "deep")
    metrics = reproduced.folder / "metrics"
    assert json.loads((metrics / "validation.json").read_text()) == {
        "validation_accuracy": None,
        "validation_loss": None,
        "weights_sha256": sha256(reproduced.folder / "models/model.safetensors"),
    }
    assert json.loads((metrics / "onnx.json").read_text())["fp32"]["agreement"] == 1
    shown = reproduced.run("mnist-cnn", "info").stdout
    assert re.search(r"^parameters +9802$", shown, re.MULTILINE)
    assert "validation_accuracy" in reproduced.run("dvc", "metrics", "diff").stdout
    reproduced.run("dvc", "plots", "show")
    reproduced.run("dvc", "exp", "remove", "deep")


@pytest.mark.slow
def test_an_experiment_in_a_copy_runs_the_copys_code(reproduced: Project) -> None:
    """Not the code of the folder that the package is installed from."""
    edited = reproduced.folder / "stages/export.py"
    edited.write_text(edited.read_text().replace('print(f"{path}', 'print(f"as edited: {path}'))
    module = reproduced.folder / "src/mnist_cnn_train/export/graph.py"
    module.write_text(module.read_text().replace('"license": "MIT"', '"license": "as edited"'))
    output = reproduced.run("dvc", "exp", "run", "--temp", "--name", "copy").stdout
    assert "as edited: models/mnist_cnn.onnx" in output
    reproduced.run("git", "checkout", "--quiet", ".")
    reproduced.run("dvc", "exp", "apply", "copy")
    assert b"as edited" in (reproduced.folder / "models/mnist_cnn.onnx").read_bytes()
    reproduced.run("dvc", "exp", "remove", "copy")


@pytest.mark.slow
def test_an_experiment_that_misses_the_gate_changes_nothing_and_is_not_kept(
    reproduced: Project,
) -> None:
    before = reproduced.hashes("data", "metrics", "models")
    known = reproduced.run("dvc", "exp", "list").stdout
    settings = ("-S", "train.learning_rate=0.001", "-S", "evaluate.min_accuracy=1.0")
    result = reproduced.run("dvc", "exp", "run", "--temp", *settings, check=False)
    assert result.returncode != 0
    assert "is below evaluate.min_accuracy 1.0" in result.stdout
    assert reproduced.hashes("data", "metrics", "models") == before
    assert reproduced.run("git", "status", "--porcelain").stdout == ""
    assert reproduced.run("dvc", "exp", "list").stdout == known


@pytest.mark.slow
def test_an_experiment_changes_no_more_than_its_settings_in_params_yaml(
    reproduced: Project,
) -> None:
    """Not the comments, which DVC would lose within a list."""
    shutil.copy(REPOSITORY / "params.yaml", reproduced.folder)
    before = (reproduced.folder / "params.yaml").read_text().splitlines()
    settings = ("-S", "data.test_fraction=0.25", "-S", "evaluate.calibration_bins=5")
    reproduced.run("dvc", "exp", "run", "--queue", "--name", "queued", *settings)
    queued = reproduced.run("git", "show", "refs/exps/celery/stash:params.yaml").stdout
    reproduced.run("dvc", "queue", "remove", "--all")
    changed = [
        (old.split("#")[0].split(), new.split("#")[0].split())
        for old, new in zip(before, queued.splitlines(), strict=True)
        if old != new
    ]
    assert changed == [
        (["test_fraction:", "0.2"], ["test_fraction:", "0.25"]),
        (["calibration_bins:", "15"], ["calibration_bins:", "5"]),
    ]


@pytest.mark.slow
def test_a_missed_accuracy_gate_is_one_clear_line(reproduced: Project) -> None:
    reproduced.set(**{"evaluate.min_accuracy": 1.0})
    result = reproduced.run("dvc", "repro", check=False)
    assert result.returncode != 0
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("evaluate: "))
    assert re.search(r"accuracy 0\.\d{4} is below evaluate\.min_accuracy 1\.0", line)
    assert "Traceback" not in result.stdout
    assert (reproduced.folder / "metrics/accuracy.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("command", [["dvc", "repro"], ["python", "stages", "export"]], ids=str)
def test_a_missed_parity_tolerance_leaves_no_model(command: list[str], reproduced: Project) -> None:
    reproduced.set(**{"export.tolerance": 1e-12})
    result = reproduced.run(*command, check=False)
    assert result.returncode != 0
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("export: "))
    assert "more than export.tolerance 1e-12; no model was written" in line
    assert "Traceback" not in result.stdout
    assert not (reproduced.folder / "models/mnist_cnn.onnx").exists()
    assert not (reproduced.folder / "models/mnist_cnn.int8.onnx").exists()
    assert not (reproduced.folder / "metrics/onnx.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "damaged"),
    [
        ("train", "data/raw/train-labels-idx1-ubyte"),
        ("evaluate", "data/raw/t10k-labels-idx1-ubyte"),
        ("evaluate", "metrics/plots/training.csv"),
        ("evaluate", "models/model.safetensors"),
        ("export", "data/raw/t10k-labels-idx1-ubyte"),
        ("export", "models/model.safetensors"),
    ],
)
def test_a_stage_that_cannot_read_its_input_says_so_in_one_line_and_writes_nothing(
    stage: str, damaged: str, reproduced: Project
) -> None:
    path = reproduced.folder / damaged
    content = path.read_bytes()
    path.unlink()  # first, since dvc may have linked it to its cache
    path.write_bytes(content[:10])

    def snapshot() -> dict[Path, int]:  # also notices a file that is written anew as it was
        made = (reproduced.folder / name for name in ("data", "metrics", "models"))
        return {file: file.stat().st_mtime_ns for folder in made for file in folder.rglob("*")}

    before = snapshot()
    result = reproduced.run(sys.executable, "stages", stage, check=False)
    assert result.returncode == 1
    (line,) = result.stdout.splitlines()
    assert line.startswith(f"{stage}: {damaged} ")
    assert snapshot() == before


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_refuses_bad_settings_before_any_work(stage: str, reproduced: Project) -> None:
    before = reproduced.hashes("data", "metrics", "models")
    reproduced.set(**{"train.epochs": 0, "export.opset": "latest"})
    result = reproduced.run(sys.executable, "stages", stage, check=False)
    assert result.returncode == 1
    assert result.stdout.splitlines() == [
        f"{stage}: params.yaml cannot be used:",
        "  train.epochs: 0; input should be greater than or equal to 1",
        "  export.opset: 'latest'; input should be a valid integer",
    ]
    assert reproduced.hashes("data", "metrics", "models") == before


@pytest.mark.slow
def test_an_int8_model_that_fails_leaves_the_good_one_in_fp32(reproduced: Project) -> None:
    """As on a processor that saturates, which this one may not be."""
    module = reproduced.folder / "src/mnist_cnn_train/export/int8.py"
    native = "run_logits(small, digits.images)"
    assert native in module.read_text()
    module.write_text(module.read_text().replace(native, f"{native} + 9"))
    result = reproduced.run("dvc", "repro", check=False)
    assert result.returncode != 0
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("export: "))
    assert re.search(r"by 9\.\d+, more than export\.int8_tolerance 5; no int8 model was", line)
    assert (reproduced.folder / "models/mnist_cnn.onnx").is_file()
    assert not (reproduced.folder / "models/mnist_cnn.int8.onnx").exists()
    written = json.loads((reproduced.folder / "metrics/onnx.json").read_text())
    assert written.keys() == {"opset", "fp32"}


@pytest.mark.slow
def test_in_a_fresh_clone_dvc_knows_that_nothing_changed(
    reproduced: Project, tmp_path: Path
) -> None:
    clone = Project(tmp_path / "clone")
    reproduced.run("git", "clone", "--quiet", str(reproduced.folder), str(clone.folder))
    told = clone.run("dvc", "repro", "--dry", "--allow-missing").stdout
    assert "Data and pipelines are up to date" in told
    clone.run("dvc", "freeze", "train")
    changes = clone.run("git", "diff", "--numstat").stdout.split()
    assert changes == ["1", "0", "dvc.yaml"]
    clone.run("dvc", "unfreeze", "train")
    assert clone.run("git", "status", "--porcelain").stdout == ""


@pytest.mark.slow
def test_a_clone_has_the_same_bytes_whatever_git_does_to_line_ends(
    reproduced: Project, tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    options = ("-c", "core.autocrlf=true", "-c", "core.eol=crlf")
    reproduced.run("git", *options, "clone", "--quiet", *options, ".", str(clone))
    for name in reproduced.run("git", "ls-files").stdout.splitlines():
        assert (clone / name).read_bytes() == (reproduced.folder / name).read_bytes(), name


@pytest.mark.slow
def test_training_needs_no_test_images(reproduced: Project, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(reproduced.folder, folder, ignore=shutil.ignore_patterns(".dvc", ".git"))
    for name in SHA256:
        if name.startswith("t10k"):
            (folder / "data/raw" / name).unlink()
    Project(folder).run(sys.executable, "stages", "train")
    weights = "models/model.safetensors"
    assert (folder / weights).read_bytes() == (reproduced.folder / weights).read_bytes()


@pytest.mark.slow
def test_the_readmes_first_command_works_in_a_fresh_clone(
    reproduced: Project, tmp_path: Path
) -> None:
    lock = reproduced.run("git", "hash-object", "requirements.lock").stdout.strip()
    if not Path(sys.prefix, f".ready-{lock}").is_file():
        pytest.skip("this environment was not made by `make setup` from the current lock")
    clone = Project(tmp_path / "a clone")
    reproduced.run("git", "clone", "--quiet", str(reproduced.folder), str(clone.folder))
    (clone.folder / ".venv").symlink_to(sys.prefix)  # making it anew would take minutes
    first = clone.run("make", "repro").stdout
    assert "pip install" not in first  # set up once
    # The outputs of the others are in git.
    assert re.findall(r"Running stage '(\w+)'", first) == ["download", "train", "export"]
    assert (clone.folder / "models/mnist_cnn.onnx").is_file()
    assert "up to date" in clone.run("make", "repro").stdout
