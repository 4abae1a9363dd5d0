"""A short training of real digits, an evaluation and an export give the bytes in golden.json.

On every x86-64 processor with AVX2: each entry has the kinds of processors that were shown to give
its digests. A difference on one of them fails; one that was not yet seen is reported.

After a change of what is computed: pytest tests/project/test_golden.py --golden
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, Project, copy_files
from ruamel.yaml import YAML

from mnist_cnn_train.pipeline.processor import this_processor

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not this_processor().is_reproducible,
        reason="this processor has no AVX2: its results differ by rounding",
    ),
]

GOLDEN = REPOSITORY / "tests/project/golden.json"
SHORT = {
    "data.split.train_images": 2_000,
    "data.split.validation_images": 500,
    "train.device": "cpu",
    "train.epochs": 3,
    "train.unaugmented_epochs": 1,
    "train.batch_size": 50,
    "train.ema_decay": 0.9,
    "export.calibration_images": 200,
    "export.max_int8_accuracy_drop": 0.05,
    "evaluate.min_accuracy": 0.5,
}
# What the others compute by: other layers and optimizers, threads, damage, views.
RECIPES = ("speed", "record", "robust", "adamw")


TRAIN_RECIPES = """
import train
from mnist_cnn.core.files import sha256
from mnist_cnn_train.pipeline.params import Params, changed, read_yaml
from mnist_cnn_train.pipeline.paths import PARAMS, WEIGHTS
from mnist_cnn_train.experiments.paths import RECIPES as PATH
from mnist_cnn_train.training.distributed import SINGLE_PROCESS

def main():
    known = {name: one for group in read_yaml(PATH).values() for name, one in group.items()}
    for name in RECIPES:
        settings = changed(read_yaml(PARAMS), {**known[name], **SHORT})
        train.train_and_save(Params.model_validate(settings), SINGLE_PROCESS)
        print(f"{name}: {WEIGHTS.name} = {sha256(WEIGHTS)}")
"""


@pytest.fixture(scope="module")
def digests(raw_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The SHA-256 of each output, and of the weights of each recipe."""
    project = copy_files(tmp_path_factory.mktemp("golden"))
    project.set(**{"data.sources": [f"folder:{raw_data}"], **SHORT})
    for stage in ("download", "train", "evaluate", "export"):
        project.run("python", "stages", stage)
    found = project.hashes("data/raw", "metrics", "models")
    outputs = YAML(typ="safe").load(project.folder / "dvc.yaml")["stages"].values()
    made = {name for stage in outputs for name in _names(stage)}
    return {name: found[name] for name in sorted(made)} | _recipes(project)


def _names(stage: dict[str, Any]) -> list[str]:
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def _recipes(project: Project) -> dict[str, str]:
    """Each is trained as the stage does, all in one process, in which the processor is capped."""
    script = project.folder / "stages/recipes.py"
    script.write_text(f"RECIPES, SHORT = {RECIPES}, {SHORT}\n{TRAIN_RECIPES}")
    told = project.run("python", "stages", "recipes").stdout
    return dict(line.split(" = ") for line in told.splitlines() if " = " in line)


def test_the_bytes_are_those_of_every_processor_that_was_compared(
    digests: dict[str, str], request: pytest.FixtureRequest
) -> None:
    processor = this_processor()
    kind = f"{processor.kind}, Python {sys.version_info.major}.{sys.version_info.minor}"
    if request.config.getoption("--golden"):
        entry = {"processors": [kind], "digests": digests}
        GOLDEN.write_text(json.dumps([entry], indent=2) + "\n")
    entries: list[dict[str, Any]] = json.loads(GOLDEN.read_text())
    known = next((entry for entry in entries if kind in entry["processors"]), None)
    if known:
        different = [name for name in digests if known["digests"].get(name) != digests[name]]
        assert not different, f"{processor} gives other bytes than all of {known['processors']}"
        return
    same = any(entry["digests"] == digests for entry in entries)
    add = (
        f"{kind!r} to its entry" if same else json.dumps({"processors": [kind], "digests": digests})
    )
    warnings.warn(
        f"not yet seen: {processor}; add to tests/project/golden.json {add}", stacklevel=1
    )
