"""Run and query DVC experiments through the command line."""

import json
import re
import subprocess
from typing import Any

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.pipeline.paths import PARAMS

Setting = str | int | float | bool


def arguments(changes: dict[str, Setting]) -> list[str]:
    """Return the arguments of `dvc exp run` that make `changes`."""
    texts = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in changes.items()
    }
    return [word for key, text in texts.items() for word in ("-S", f"{key}={text}")]


def experiments() -> dict[str, dict[str, Any]]:
    """Return the metrics files' content for each experiment on the current commit, by name."""
    return _shown("metrics")


def settings() -> dict[str, dict[str, Any]]:
    """Return the content of params.yaml for each experiment on the current commit, by name."""
    return {name: files[str(PARAMS)]["data"] for name, files in _shown("params").items()}


def run_experiment(name: str, changes: dict[str, Setting]) -> dict[str, Any]:
    """Run the pipeline with `changes` as the experiment `name`, replacing an older one.

    It runs in a temporary folder and leaves this one unchanged.

    Returns:
        The content of its metrics files, by path.

    Raises:
        MnistCnnError: if a stage or DVC failed.
    """
    if name in experiments():
        dvc("exp", "remove", name)
    dvc("--wait-for-lock", "exp", "run", "--temp", "--name", name, *arguments(changes))
    return experiments()[name]


def _shown(part: str) -> dict[str, dict[str, Any]]:
    rows = json.loads(dvc("exp", "show", "--json"))
    return {
        experiment["name"]: (experiment["revs"][-1]["data"] or {}).get(part) or {}
        for row in rows
        for experiment in row.get("experiments") or []
    }


def dvc(*command: str) -> str:
    """Run a DVC command and return its standard output.

    Raises:
        MnistCnnError: if it failed; the message is the stage's or else DVC's.
    """
    result = subprocess.run(["dvc", *command], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if result.returncode:
        output = f"{result.stdout}\n{result.stderr}"
        # A stage's message starts with its name; further lines are indented.
        said = re.search(r"^(download|train|evaluate|export): .*(\n  .*)*", output, re.MULTILINE)
        errors = re.findall(r"^ERROR: .*", output, re.MULTILINE)
        told = said.group() if said else " ".join(errors) or output
        raise MnistCnnError(" ".join(told.split()))
    return result.stdout
