"""Draw synthetic images for training: digits in other hands, and what is no digit."""

from mnist_cnn_train.data.catalog import TRAINING_FILES
from mnist_cnn_train.data.dataset import write_dataset
from mnist_cnn_train.data.split import load_split
from mnist_cnn_train.pipeline.params import load_params
from mnist_cnn_train.pipeline.paths import FONTS, RAW_DATA, SYNTHETIC_DATA
from mnist_cnn_train.pipeline.stage import exclusive_lock
from mnist_cnn_train.synthetic.build import synthesize


@exclusive_lock("synthesize")
def main() -> None:
    """Write data/synthetic."""
    params = load_params()
    training, _ = load_split(RAW_DATA, params.data.split)
    drawn = synthesize(training, FONTS, params.synthesize)
    images, labels = TRAINING_FILES
    write_dataset(
        "synthetic",
        drawn.names,
        {**{images: drawn.images}, **{labels: drawn.labels}},
        SYNTHETIC_DATA,
    )
    print(f"{len(drawn):,} synthetic images")
