"""Who may import whom: the reader never the trainer, and each package only those listed before."""

import ast
import pkgutil
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, shell

SOURCE = REPOSITORY / "src"

READER = {
    "core": set(),
    "imaging": {"core"},
    "onnxfile": {"core"},
    "reader": {"core", "imaging", "onnxfile"},
    "batch": {"core", "imaging", "reader"},
    "demo": {"core", "imaging", "reader"},
    "cli": {"core", "imaging", "onnxfile", "reader", "batch", "demo"},
}
TRAINER = {
    "data": set(),
    "pipeline": {"data"},
    "download": {"data", "pipeline"},
    "synthetic": {"data", "pipeline"},
    "transforms": {"pipeline"},
    "model": {"pipeline"},
    "training": {"data", "pipeline", "transforms", "model"},
    "evaluation": {"data", "pipeline", "transforms", "model"},
    "export": {"data", "pipeline", "model"},
    "microcontroller": {"data", "model"},
    "experiments": {"data", "pipeline", "model", "training", "evaluation", "export"},
    "repro": {"pipeline", "experiments"},
}
# What the trainer's packages use of the reader, beside `core`.
OF_THE_READER = {
    "download": {"imaging"},
    "synthetic": {"imaging"},
    "evaluation": {"imaging"},
    "export": {"imaging", "onnxfile"},
    "experiments": {"imaging", "onnxfile", "reader"},
}


def imported_names(module: Path) -> set[str]:
    """The dotted names of the project's modules that a file imports when it runs."""
    tree = ast.parse(module.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module} imports by a relative name"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.split(".")[0] in ("mnist_cnn", "mnist_cnn_train")}


def files_of(name: str) -> list[Path]:
    """The files that run when the module `name` is imported; none where it is no module."""
    path = SOURCE / name.replace(".", "/")
    packages = [one / "__init__.py" for one in (path, *path.parents) if SOURCE in one.parents]
    return [file for file in (path.with_suffix(".py"), *packages) if file.is_file()]


def may_import(package: str, folder: str) -> set[str]:
    if package == "mnist_cnn":
        return {f"mnist_cnn.{other}" for other in {folder, *READER[folder]}}
    reader = {"core"} | OF_THE_READER.get(folder, set())
    own = {f"mnist_cnn_train.{other}" for other in {folder, *TRAINER[folder]}}
    return own | {f"mnist_cnn.{other}" for other in reader}


def violations(source: Path) -> list[str]:
    """Each import below `source` that the tables above do not allow."""
    return [
        f"{module.relative_to(source)} imports {name}"
        for module in sorted(source.glob("*/*/**/*.py"))
        for name in imported_names(module)
        if ".".join(name.split(".")[:2]) not in may_import(*module.relative_to(source).parts[:2])
    ]


def test_each_package_imports_only_what_it_may() -> None:
    for package, table in (("mnist_cnn", READER), ("mnist_cnn_train", TRAINER)):
        assert {path.parent.name for path in SOURCE.glob(f"{package}/*/*.py")} == set(table)
    assert violations(SOURCE) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("mnist_cnn/reader/new.py", "from mnist_cnn_train.pipeline.params import load_params"),
        ("mnist_cnn/core/new.py", "def f() -> None:\n    import mnist_cnn.reader.recognizer"),
        ("mnist_cnn_train/training/new.py", "from mnist_cnn_train.export.graph import describe"),
        ("mnist_cnn_train/model/new.py", "import mnist_cnn.onnxfile.session"),
    ],
)
def test_a_forbidden_import_is_found(module: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / module
    path.parent.mkdir(parents=True)
    path.write_text(f"{line}\n")
    assert len({found.split(" imports ")[0] for found in violations(tmp_path)}) == 1


def test_the_tables_have_no_cycle() -> None:
    for table in (READER, TRAINER):
        for place, allowed in enumerate(table.values()):
            assert allowed <= set(list(table)[:place])


@pytest.mark.slow
def test_importing_a_module_changes_nothing_and_prints_nothing() -> None:
    """Each in the order of the packages, in one process."""
    modules = pkgutil.walk_packages([str(SOURCE)])
    names = [one.name for one in modules if not one.ispkg and "__main__" not in one.name]
    code = (
        "import importlib, os, sys\n"
        "before, place = dict(os.environ), os.getcwd()\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "for name in set(os.environ) ^ set(before):\n"
        "    if not name.startswith('RAY_'): print(name)\n"  # set by Ray itself
        "assert os.getcwd() == place\n"
    )
    result = shell(sys.executable, "-c", code, check=False)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
