"""The recipe `speed` of recipes.yaml, by the code of the train stage.

Prints a line of JSON: seconds of training, from pixels in memory to weights, and accuracy on the
test images.
"""

import argparse
import json
import time

import torch

from mnist_cnn_train.data.dataset import read_test_digits, read_training_digits
from mnist_cnn_train.experiments.paths import RECIPES
from mnist_cnn_train.experiments.recipes import read_recipes
from mnist_cnn_train.model.networks import predict_logits
from mnist_cnn_train.pipeline.params import Params, changed, load_params
from mnist_cnn_train.pipeline.paths import RAW_DATA
from mnist_cnn_train.training.loop import train


def speed(seed: int, threads: int) -> Params:
    """The settings of the recipe."""
    changes = read_recipes(RECIPES, "published")["speed"]
    changes |= {"train.seed": seed, "train.threads": threads}
    return Params.model_validate(changed(load_params().model_dump(), changes))


def main() -> None:
    """Train once on all 60,000 training images."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    params = speed(options.seed, options.threads)
    digits = read_training_digits(RAW_DATA)
    test = read_test_digits(RAW_DATA)
    start = time.perf_counter()
    network = train(digits, None, params.model, params.train).network
    seconds = time.perf_counter() - start
    logits = predict_logits(network, torch.from_numpy(test.images)).numpy()
    accuracy = float((logits.argmax(axis=1) == test.labels).mean())
    epochs = params.train.epochs
    print(json.dumps({"epoch": epochs, "seconds": seconds, "accuracy": accuracy}), flush=True)


if __name__ == "__main__":
    main()
