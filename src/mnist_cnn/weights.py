"""Trained weights on disk, as safetensors: plain numbers that run no code when read."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from mnist_cnn.artifacts import write_bytes
from mnist_cnn.errors import MnistCnnError


def save_weights(network: nn.Module, path: Path) -> None:
    """Write all parameters and buffers of `network`, whole or not at all.

    No metadata is written beside them: with several entries its order is not fixed, and
    the same weights would not always give the same bytes.
    """
    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_bytes(path, save(tensors))


def load_weights(network: nn.Module, path: Path) -> None:
    """Fill `network`, on its own device, from a file that `save_weights` wrote.

    Raises:
        MnistCnnError: the file is missing, damaged, from another network, or not finite.
    """
    try:
        tensors = load(path.read_bytes())
        network.load_state_dict(tensors)
    except FileNotFoundError:
        raise MnistCnnError(f"there is no {path}; run `dvc repro train`") from None
    except SafetensorError as error:
        raise MnistCnnError(f"{path} is damaged ({error}); run `dvc repro train`") from None
    except RuntimeError as error:
        mismatch = " ".join(str(error).split())
        raise MnistCnnError(f"{path} is from another network: {mismatch}") from None
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise MnistCnnError(f"{path} has NaN or infinity in {broken[0]}; run `dvc repro train`")
