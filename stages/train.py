"""Train the network on one part of the training images, and validate it on another."""

import logging
from dataclasses import astuple, fields

from tqdm import tqdm

from mnist_cnn.core.files import sha256, write_json
from mnist_cnn_train.data.dataset import Dataset, read_synthetic_images, read_training_digits
from mnist_cnn_train.data.split import stratified_split
from mnist_cnn_train.model.weights import save_weights
from mnist_cnn_train.pipeline.params import Params, load_params
from mnist_cnn_train.pipeline.paths import (
    RAW_DATA,
    SYNTHETIC_DATA,
    TRAINING_LOG,
    VALIDATION,
    WEIGHTS,
)
from mnist_cnn_train.pipeline.stage import exclusive_lock
from mnist_cnn_train.pipeline.tables import write_csv
from mnist_cnn_train.training.checkpoint import Checkpoint
from mnist_cnn_train.training.distributed import ProcessGroup, process_group
from mnist_cnn_train.training.log import EpochLog
from mnist_cnn_train.training.loop import train
from mnist_cnn_train.training.torchrun import in_torchrun, launch


def main() -> None:
    """Train in this process, or in several started by torchrun."""
    params = load_params()
    if params.train.launcher == "torchrun" and not in_torchrun():
        launch(["stages", "train"], params.train.processes)
        return
    with process_group(params.train.device) as processes:
        if not processes.is_leader:
            train_and_save(params, processes)
            return
        print_log()
        with exclusive_lock("train"):
            train_and_save(params, processes)


class _Printer(logging.Handler):
    """Prints log records above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record))


def print_log() -> None:
    """Print what training logs."""
    logger = logging.getLogger("mnist_cnn_train")
    logger.setLevel(logging.INFO)
    logger.addHandler(_Printer())


def train_and_save(params: Params, processes: ProcessGroup) -> None:
    """Train; write the weights, the training log, and the validation metrics.

    An interrupted run resumes after its last complete epoch. Of several processes, only the leader
    writes.
    """
    split = params.data.split
    training, validation = stratified_split(
        read_training_digits(RAW_DATA), split.train_images, split.validation_images, split.seed
    )
    watched: Dataset | None = validation
    if params.train.train_on_validation:
        training, watched = training + validation, None
    if synthetic := read_synthetic_images(SYNTHETIC_DATA):
        training = training + synthetic
    settings = (params.model.model_dump_json(), params.train.model_dump_json())
    checkpoint = Checkpoint.of(settings, [training, validation], processes)
    trained = train(training, watched, params.model, params.train, checkpoint, processes)
    if not processes.is_leader:
        return
    save_weights(trained.network, WEIGHTS)
    write_csv(TRAINING_LOG, [field.name for field in fields(EpochLog)], map(astuple, trained.log))
    last = trained.log[-1]
    write_json(
        VALIDATION,
        {
            "validation_accuracy": rounded(last.validation_accuracy),
            "validation_loss": rounded(last.validation_loss),
            "weights_sha256": sha256(WEIGHTS),
        },
    )
    checkpoint.remove()


def rounded(figure: float | None) -> float | None:
    """Round to six decimals; None (with `train_on_validation`) stays None."""
    return None if figure is None else round(figure, 6)
