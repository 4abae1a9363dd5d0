"""Hatch build hook that puts the pipeline's model into the wheel."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MODEL = "models/mnist_cnn.onnx"


class ModelHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the model when a wheel is built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Include the model; an editable install finds it in the checkout."""
        if version == "editable":
            return
        if not (Path(self.root) / MODEL).is_file():
            raise SystemExit(f"there is no {MODEL} to put into the wheel; run `make repro` first")
        build_data["force_include"][MODEL] = f"mnist_cnn/{Path(MODEL).name}"
