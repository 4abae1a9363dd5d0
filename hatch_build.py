"""Put the model that the pipeline made into the wheel, beside the code that reads it."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MODEL = "models/mnist_cnn.onnx"


class ModelHook(BuildHookInterface):  # type: ignore[type-arg]
    """Runs when a wheel is built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the model as one more file; an editable install reads it where it is."""
        if version == "editable":
            return
        if not (Path(self.root) / MODEL).is_file():
            raise SystemExit(f"there is no {MODEL} to put into the wheel; run `make repro` first")
        build_data["force_include"][MODEL] = f"mnist_cnn/{Path(MODEL).name}"
