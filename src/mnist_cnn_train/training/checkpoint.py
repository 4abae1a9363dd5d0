"""Checkpoints from which an interrupted training resumes.

They are not pipeline outputs, since DVC deletes those before it runs a stage.
"""

import hashlib
import logging
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from mnist_cnn.core.files import write_bytes
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.pipeline.paths import CHECKPOINTS
from mnist_cnn_train.training.distributed import SINGLE_PROCESS, ProcessGroup

logger = logging.getLogger(__name__)

DIGEST_SIZE = hashlib.sha256().digest_size


class Checkpoint:
    """A file with the state of one training run: tensors by name.

    Of several processes, only the leader reads and writes it.
    """

    def __init__(self, path: Path, processes: ProcessGroup = SINGLE_PROCESS) -> None:
        """Store the state of all `processes` in the file `path`."""
        self.path = path
        self._processes = processes

    @classmethod
    def of(
        cls,
        settings: Iterable[str],
        data: Iterable[Dataset],
        processes: ProcessGroup = SINGLE_PROCESS,
    ) -> Self:
        """Return the checkpoint for this code, this kind of machine, `settings` and `data`."""
        key = hashlib.sha256()
        for module in imported_sources():
            key.update(hashlib.sha256(module.read_bytes()).digest())
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
        machine = (torch.__version__, torch.backends.cpu.get_cpu_capability(), gpu)
        for text in (*machine, *settings):
            key.update(hashlib.sha256(text.encode()).digest())
        for digits in data:
            for values in (digits.images, digits.labels):
                key.update(hashlib.sha256(np.ascontiguousarray(values).data).digest())
        return cls(CHECKPOINTS / f"train-{key.hexdigest()[:32]}", processes)

    def save(self, state: Mapping[str, Tensor]) -> None:
        """Replace the state atomically."""
        if not self._processes.is_leader:
            return
        content = save({name: tensor.cpu().contiguous() for name, tensor in state.items()})
        # With a checksum, since safetensors does not detect a changed number.
        write_bytes(self.path, hashlib.sha256(content).digest() + content)

    def load(self) -> dict[str, Tensor] | None:
        """Return the state; None if it is missing, or damaged, which is logged.

        All processes must call this together, and get the leader's state.
        """
        state = self._read() if self._processes.is_leader else None
        shared: dict[str, Tensor] | None = self._processes.broadcast(state)
        return shared

    def _read(self) -> dict[str, Tensor] | None:
        try:
            written = self.path.read_bytes()
        except FileNotFoundError:
            return None
        digest, content = written[:DIGEST_SIZE], written[DIGEST_SIZE:]
        if hashlib.sha256(content).digest() != digest:
            logger.warning("%s is damaged; training starts again", self.path)
            return None
        return load(content)

    def remove(self) -> None:
        """Delete the state once training has finished."""
        if self._processes.is_leader:
            self.path.unlink(missing_ok=True)


def imported_sources() -> list[Path]:
    """Return the project's modules that this process has imported, as no other code matters."""
    return sorted(
        Path(module.__file__)
        for name, module in list(sys.modules.items())
        if name.startswith(("mnist_cnn.", "mnist_cnn_train.")) and module.__file__
    )
