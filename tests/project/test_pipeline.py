"""The pipeline as users run it: real `dvc` calls on a small part of the real data."""

import inspect
import os
import re
import runpy
import sys
from collections.abc import Iterator
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, Project
from pydantic import BaseModel
from test_imports import files_of, imported_names

from mnist_cnn.core.files import sha256
from mnist_cnn_train.pipeline.params import Params, Section

STAGES = ["download", "synthesize", "train", "evaluate", "export"]
PIPELINE: dict[str, Any] = Project(REPOSITORY).read("dvc.yaml")["stages"]
TRAINER = ("python", "-m", "mnist_cnn_train")


def entries(stage: str, *kinds: str) -> set[str]:
    """What `dvc.yaml` lists under `kinds`, without the options of each entry."""
    listed = (entry for kind in kinds for entry in PIPELINE[stage].get(kind, []))
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in listed}


def code_of(stage: str) -> set[str]:
    return {name for name in entries(stage, "deps") if name.startswith(("src/", "stages/"))}


def imported(module: Path, found: set[Path]) -> set[Path]:
    """`found`, `module`, and what that imports of the project anywhere, directly or not."""
    if module not in found:
        found.add(module)
        for file in (file for name in imported_names(module) for file in files_of(name)):
            imported(file, found)
    return found


def test_stages_have_the_names_of_their_files_in_the_pipelines_order() -> None:
    assert list(PIPELINE) == STAGES
    assert {path.stem for path in (REPOSITORY / "stages").glob("[!_]*.py")} == set(STAGES)
    for stage in STAGES:
        assert PIPELINE[stage]["cmd"] == f"python stages {stage}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_packages_that_it_imports(stage: str) -> None:
    stages = REPOSITORY / "stages"
    modules = imported(stages / f"{stage}.py", imported(stages / "__main__.py", set()))
    code = {"/".join(path.relative_to(REPOSITORY).parts[:3]) for path in modules}
    assert code_of(stage) == code - {"src/mnist_cnn_train/__init__.py"}  # a docstring alone
    assert len(code_of(stage)) <= 10


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[type[BaseModel], str, str]]:
    """The section, the name and the dotted key of each setting."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from keys(field.annotation, f"{prefix}{name}.")
        else:
            yield model, name, f"{prefix}{name}"


OPENED: set[str] = set()


def note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str | bytes | Path):
        OPENED.add(os.fsdecode(arguments[0]))


sys.addaudithook(note)  # which cannot be removed

# Read where `data.dataset` is no folder (test_sources.py), and by torchrun (test_distributed.py).
NOT_READ_HERE = {"data.sources", "train.processes"}

# Read where `evaluate.reader_suite` is set (test_reader_suite.py).
NOT_OPENED_HERE = {"evaluate": {"data/raw/fonts.zip"}}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_exactly_the_settings_and_files_that_it_reads_and_writes(
    stage: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr(sys, "argv", [f"stages/{stage}.py"])
    known = {(section, name): key for section, name, key in keys(Params)}
    read: set[tuple[type, str]] = set()

    def noting(section: Section, name: str) -> Any:
        read.add((type(section), name))
        return BaseModel.__getattribute__(section, name)

    program = runpy.run_path(f"stages/{stage}.py", run_name="stage")

    def load_then_note() -> Params:
        loaded: Params = program["load_params"]()
        monkeypatch.setattr(Section, "__getattribute__", noting, raising=False)
        return loaded

    inspect.unwrap(program["main"]).__globals__["load_params"] = load_then_note
    before = project.times()
    OPENED.clear()
    program["main"]()
    opened = before.keys() & {os.path.relpath(path, project.folder) for path in OPENED}
    opened = {"data/own" if name.startswith("data/own/") else name for name in opened}
    written = {name for name, time in project.times().items() if before.get(name) != time}
    assert written == entries(stage, "outs", "metrics", "plots")
    needed = entries(stage, "deps") - code_of(stage) - NOT_OPENED_HERE.get(stage, set())
    assert opened - written == needed
    listed = tuple(f"{entry}." for entry in entries(stage, "params"))
    declared = {key for key in known.values() if f"{key}.".startswith(listed)}
    assert {known[setting] for setting in read & known.keys()} == declared - NOT_READ_HERE


def test_the_committed_lock_is_of_the_committed_code_settings_and_metrics() -> None:
    lock = Project(REPOSITORY).read("dvc.lock")["stages"]
    settings = Project(REPOSITORY).read("params.yaml")
    assert list(lock) == STAGES
    for stage in STAGES:
        assert lock[stage]["cmd"] == PIPELINE[stage]["cmd"]
        for entry in (*lock[stage]["deps"], *lock[stage]["outs"]):
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


def test_the_models_are_small(pristine: Project) -> None:
    models = pristine.folder / "models"
    assert (models / "mnist_cnn.onnx").stat().st_size <= 37_500
    assert (models / "mnist_cnn.int8.onnx").stat().st_size <= 12_000


def readme_table() -> dict[str, list[str]]:
    """The table of README.md that starts with "You change"; the stages that each row names."""
    text = (REPOSITORY / "README.md").read_text()
    table = text[text.index("| You change") :].split("\n\n")[0].splitlines()[2:]
    rows = (re.split(r" *\| *", line.strip("| ")) for line in table)
    return {edit: re.findall(r"\w+", stages.replace("nothing", "")) for edit, stages in rows}


OTHER_SETTINGS = {
    "train.learning_rate": 0.05,
    "evaluate.min_accuracy": 0.4,
    "export.tolerance": 0.001,
    "data.sources": ["npm"],
}


@pytest.mark.parametrize(("edits", "stages"), readme_table().items(), ids=readme_table())
def test_only_what_the_readme_says_runs(edits: str, stages: list[str], reproduced: Project) -> None:
    with reproduced.same_files():
        for name in re.findall("`(.+?)`", edits.replace("a test", "`tests/conftest.py`")):
            if name in OTHER_SETTINGS:
                reproduced.set(**{name: OTHER_SETTINGS[name]})
            else:
                path = reproduced.folder / name
                path.write_text(path.read_text() + "\n# edited\n")
        assert reproduced.repro() == stages
        reproduced.run("git", "checkout", "--quiet", ".")
        assert reproduced.repro() == []  # restored from the cache
    assert "up to date" in reproduced.run("dvc", "status").stdout
    assert reproduced.run("git", "status", "--porcelain").stdout == ""


def test_going_back_after_training_anew_restores_from_the_run_cache(reproduced: Project) -> None:
    with reproduced.same_files("models"):
        reproduced.set(**{"train.seed": 7})
        assert reproduced.repro() == ["train", "evaluate", "export"]
        reproduced.set(**{"train.seed": 0})  # dvc.lock is now the other run's
        assert reproduced.repro() == []


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


def test_plots_show_has_each_plot_once(reproduced: Project) -> None:
    reproduced.run("dvc", "plots", "show")
    html = (reproduced.folder / "dvc_plots/index.html").read_text()
    titles = re.findall(r'"title": \{"text": "([^"]+)"', html)
    assert sorted(titles) == ["Confusion matrix", "Loss", "Validation accuracy"]
    pictures = re.findall(r'<img[^>]*src="static/workspace_metrics_plots_(\w+)\.png"', html)
    assert sorted(pictures) == ["curves", "misclassified", "reliability"]


def test_experiments_change_a_setting_and_are_compared(reproduced: Project) -> None:
    # The seed that other tests here run as well, so that it comes from the cache.
    gentle = ("-S", "train.seed=7", "-S", "export.tolerance=0.01")
    reproduced.run("dvc", "exp", "run", "--name", "gentle", *gentle)
    drop = ".*(class|_95|fp32|int8|metrics|models|sha256)"
    table = reproduced.run("dvc", "exp", "show", "--only-changed", "--drop", drop).stdout
    (row,) = (line for line in table.splitlines() if "gentle" in line)
    assert re.search(r" 0\.01 ", row)
    assert max(map(len, table.splitlines())) < 200
    reproduced.run("dvc", "exp", "remove", "gentle")


def test_a_record_recipe_goes_through_the_whole_pipeline(reproduced: Project) -> None:
    """As README.md runs it, but for one epoch and five views; nothing is held out."""
    short = ("-S", "train.epochs=1", "-S", "model.tta_views=5", "-S", "evaluate.min_accuracy=0")
    reproduced.run(*TRAINER, "run", "record", "--name", "deep", *short)
    assert reproduced.run("git", "status", "--porcelain").stdout == ""
    get = re.search(r"^\tdvc get (.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert get
    released = get[1].replace("--rev reader", "--rev deep").split()  # as `make release` does
    reproduced.run("dvc", "get", *released)
    model = sha256(reproduced.folder / "src/mnist_cnn/reader.onnx")
    reproduced.run("git", "checkout", "--quiet", ".")
    reproduced.run("dvc", "exp", "apply", "deep")
    assert model == sha256(reproduced.folder / "models/mnist_cnn.onnx")
    assert reproduced.read("metrics/validation.json") == {
        "validation_accuracy": None,
        "validation_loss": None,
        "weights_sha256": sha256(reproduced.folder / "models/model.safetensors"),
    }
    assert reproduced.read("metrics/onnx.json")["fp32"]["agreement"] == 1
    shown = reproduced.run("mnist-cnn", "info", "models/mnist_cnn.onnx").stdout
    assert re.search(r"^parameters +9802$", shown, re.MULTILINE)
    assert "validation_accuracy" in reproduced.run("dvc", "metrics", "diff").stdout
    reproduced.run("dvc", "plots", "show")
    reproduced.run("dvc", "exp", "remove", "deep")


def test_an_experiment_in_a_copy_runs_the_copys_code(reproduced: Project) -> None:
    """Not the code of the folder that the package is installed from."""
    reproduced.edit("stages/export.py", 'print(f"{path}', 'print(f"as edited: {path}')
    graph = "src/mnist_cnn_train/export/graph.py"
    reproduced.edit(graph, '"license": "MIT"', '"license": "as edited"')
    output = reproduced.run("dvc", "exp", "run", "--temp", "--name", "copy").stdout
    assert "as edited: models/mnist_cnn.onnx" in output
    reproduced.run("git", "checkout", "--quiet", ".")
    reproduced.run("dvc", "exp", "apply", "copy")
    assert b"as edited" in (reproduced.folder / "models/mnist_cnn.onnx").read_bytes()
    reproduced.run("dvc", "exp", "remove", "copy")


def test_an_experiment_that_misses_the_gate_changes_nothing(reproduced: Project) -> None:
    known = reproduced.run("dvc", "exp", "list").stdout
    settings = ("-S", "train.learning_rate=0.001", "-S", "evaluate.min_accuracy=1.0")
    with reproduced.same_files():
        told = reproduced.refused("dvc", "exp", "run", "--temp", *settings)
    assert "is below evaluate.min_accuracy 1.0" in told
    assert reproduced.run("git", "status", "--porcelain").stdout == ""
    assert reproduced.run("dvc", "exp", "list").stdout == known


def test_an_experiment_changes_only_its_settings_in_params_yaml(reproduced: Project) -> None:
    """Not the comments, which DVC would lose within a list."""
    own = (REPOSITORY / "params.yaml").read_text()
    (reproduced.folder / "params.yaml").write_text(own)
    settings = ("-S", "data.test_fraction=0.25", "-S", "evaluate.calibration_bins=5")
    reproduced.run("dvc", "exp", "run", "--queue", "--name", "queued", *settings)
    queued = reproduced.run("git", "show", "refs/exps/celery/stash:params.yaml").stdout
    reproduced.run("dvc", "queue", "remove", "--all")
    lines = zip(own.splitlines(), queued.splitlines(), strict=True)
    changed = [
        (old.split("#")[0].split(), new.split("#")[0].split()) for old, new in lines if old != new
    ]
    assert changed == [
        (["test_fraction:", "0.2"], ["test_fraction:", "0.25"]),
        (["calibration_bins:", "15"], ["calibration_bins:", "5"]),
    ]


def line_of(stage: str, output: str) -> str:
    """The only line of the output that is from the stage."""
    (line,) = (line for line in output.splitlines() if line.startswith(f"{stage}: "))
    return line


def test_a_missed_accuracy_gate_is_one_clear_line(reproduced: Project) -> None:
    reproduced.set(**{"evaluate.min_accuracy": 1.0})
    line = line_of("evaluate", reproduced.refused("dvc", "repro"))
    assert re.search(r"accuracy 0\.\d{4} is below evaluate\.min_accuracy 1\.0", line)
    assert (reproduced.folder / "metrics/accuracy.json").is_file()


@pytest.mark.parametrize("command", [["dvc", "repro"], ["python", "stages", "export"]], ids=str)
def test_a_missed_parity_tolerance_leaves_no_model(command: list[str], reproduced: Project) -> None:
    reproduced.set(**{"export.tolerance": 1e-12})
    line = line_of("export", reproduced.refused(*command))
    assert "more than export.tolerance 1e-12; no model was written" in line
    for name in ("models/mnist_cnn.onnx", "models/mnist_cnn.int8.onnx", "metrics/onnx.json"):
        assert not (reproduced.folder / name).exists()


def test_an_int8_model_that_fails_leaves_the_good_one_in_fp32(reproduced: Project) -> None:
    drop = "loss = full - accuracy"
    reproduced.edit("src/mnist_cnn_train/export/int8.py", drop, f"{drop} + 0.5")
    line = line_of("export", reproduced.refused("dvc", "repro"))
    assert re.search(r"drops by 0\.\d+, more than export\.max_int8_accuracy_drop 0\.1", line)
    assert (reproduced.folder / "models/mnist_cnn.onnx").is_file()
    assert not (reproduced.folder / "models/mnist_cnn.int8.onnx").exists()
    assert reproduced.read("metrics/onnx.json").keys() == {"fp32"}


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_refuses_bad_settings_before_any_work(stage: str, reproduced: Project) -> None:
    reproduced.set(**{"train.epochs": 0, "evaluate.calibration_bins": "many"})
    with reproduced.same_files():
        told = reproduced.refused("python", "stages", stage)
    assert told.splitlines() == [
        f"{stage}: params.yaml cannot be used:",
        "  train.epochs: 0; input should be greater than or equal to 1",
        "  evaluate.calibration_bins: 'many'; input should be a valid integer",
    ]


def test_in_a_fresh_clone_dvc_knows_nothing_changed(reproduced: Project, tmp_path: Path) -> None:
    clone = reproduced.clone(tmp_path / "clone")
    told = clone.run("dvc", "repro", "--dry", "--allow-missing").stdout
    assert "Data and pipelines are up to date" in told
    clone.run("dvc", "freeze", "train")
    changes = clone.run("git", "diff", "--numstat").stdout.split()
    assert changes == ["1", "0", "dvc.yaml"]
    clone.run("dvc", "unfreeze", "train")
    assert clone.run("git", "status", "--porcelain").stdout == ""


def test_git_does_not_change_line_ends_in_a_clone(reproduced: Project, tmp_path: Path) -> None:
    options = ("-c", "core.autocrlf=true", "-c", "core.eol=crlf")
    reproduced.run("git", *options, "clone", "--quiet", *options, ".", str(tmp_path / "clone"))
    for name in reproduced.run("git", "ls-files").stdout.splitlines():
        cloned = (tmp_path / "clone" / name).read_bytes()
        assert cloned == (reproduced.folder / name).read_bytes(), name


def test_training_needs_no_test_images(project: Project) -> None:
    for path in (project.folder / "data/raw").glob("t10k*"):
        path.unlink()
    with project.same_files("models"):
        project.run("python", "stages", "train")


def test_the_readmes_first_command_works_in_a_fresh_clone(
    reproduced: Project, environment: Path, tmp_path: Path
) -> None:
    clone = reproduced.clone(tmp_path / "a clone")
    (clone.folder / ".venv").symlink_to(environment)  # making it anew would take minutes
    first = clone.run("make", "repro").stdout
    assert "pip install" not in first  # set up once
    # The outputs of the others are in git.
    started = re.findall(r"Running stage '(\w+)'", first)
    assert started == ["download", "synthesize", "train", "export"]
    assert (clone.folder / "models/mnist_cnn.onnx").is_file()
    assert "up to date" in clone.run("make", "repro").stdout
