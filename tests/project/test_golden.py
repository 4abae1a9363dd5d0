"""A short training of real digits, an evaluation and an export give the bytes in golden.json.

On every x86-64 processor with AVX2: each entry has the kinds of processors that were shown to give
its digests. A difference on one of them fails; one that was not yet seen is reported.

After a change of what is computed: pytest tests/project/test_golden.py --golden
"""

import json
import sys
import warnings
from pathlib import Path

import pytest
from conftest import REPOSITORY, copy_files
from test_pipeline import STAGES, entries

from mnist_cnn.core.files import sha256
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
    "export.max_int8_accuracy_drop": 0.05,
    "evaluate.min_accuracy": 0.5,
}
# Without fonts, which need a network.
DRAWN = {
    "data.fonts": False,
    "synthesize.font_digits": 0,
    "synthesize.form_digits": 100,
    "synthesize.redrawn_digits": 100,
    "synthesize.non_digits": 0,
    "evaluate.reader_suite": False,
}
# What the others compute by: other layers and optimizers, threads, damage, views.
RECIPES = ("speed", "record", "reader", "adamw")


@pytest.fixture(scope="module")
def digests(raw_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The SHA-256 of each output, and of the weights of each recipe."""
    project = copy_files(tmp_path_factory.mktemp("golden"))
    project.set(**{"data.sources": [f"folder:{raw_data}"]})
    params, weights = project.folder / "params.yaml", project.folder / "models/model.safetensors"
    defaults = params.read_text()
    project.set(**SHORT)
    for stage in STAGES:
        project.run("python", "stages", stage)
    made = {name for stage in STAGES for name in entries(stage, "outs", "metrics", "plots")}
    found = {name: sha256(project.folder / name) for name in sorted(made)}
    groups = project.read("recipes.yaml").values()
    for name in RECIPES:
        params.write_text(defaults)
        (recipe,) = (group[name] for group in groups if name in group)
        project.set(**{**recipe, **SHORT, **(DRAWN if name == "reader" else {})})
        for stage in ("synthesize", "train"):
            project.run("python", "stages", stage)
        found[f"{name}: {weights.name}"] = sha256(weights)
    return found


def test_the_bytes_are_golden(digests: dict[str, str], pytestconfig: pytest.Config) -> None:
    processor = this_processor()
    kind = f"{processor.kind}, Python {sys.version_info.major}.{sys.version_info.minor}"
    own = {"processors": [kind], "digests": digests}
    if pytestconfig.getoption("--golden"):
        GOLDEN.write_text(json.dumps([own], indent=2) + "\n")
    golden = json.loads(GOLDEN.read_text())
    known = next((entry for entry in golden if kind in entry["processors"]), None)
    if known:
        different = [name for name in digests if known["digests"].get(name) != digests[name]]
        assert not different, f"{processor} gives other bytes than all of {known['processors']}"
        return
    same = any(entry["digests"] == digests for entry in golden)
    new = f"{kind!r} to its entry" if same else json.dumps(own)
    warnings.warn(f"not yet seen: {processor}; add to {GOLDEN.name} {new}", stacklevel=1)
