"""Save and load trained weights as safetensors, which cannot run code when loaded."""

import hashlib
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mnist_cnn.core.errors import MnistCnnError, one_line
from mnist_cnn.core.files import write_bytes

# The only entry of the metadata: several would have no fixed order, so the same weights could give
# different bytes.
CHECKSUM_KEY = "sha256"


def save_weights(network: nn.Module, path: Path) -> None:
    """Write all parameters and buffers of `network` atomically, with their SHA-256."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_bytes(path, save(tensors, {CHECKSUM_KEY: _digest(tensors)}))


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a file that `save_weights` wrote into `network`, on its device.

    Raises:
        MnistCnnError: if the file is missing, damaged, from another network, or not finite.
    """
    try:
        path.open("rb").close()  # safetensors reports an unreadable file as missing
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise MnistCnnError(f"there is no {path}; run `dvc repro train`") from None
    except SafetensorError as error:
        raise MnistCnnError(f"{path} is damaged ({error}); run `make repair`") from None
    if metadata.get(CHECKSUM_KEY) != _digest(tensors):
        raise MnistCnnError(
            f"{path} is damaged: its SHA-256 is not the one noted in it; run `make repair`"
        )
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise MnistCnnError(f"{path} is from another network: {one_line(error)}") from None
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise MnistCnnError(f"{path} has NaN or infinity in {broken[0]}; run `dvc repro train`")


def _digest(tensors: dict[str, Tensor]) -> str:
    return hashlib.sha256(save(tensors)).hexdigest()
