"""Run `python -m mnist_cnn_train`."""

from mnist_cnn_train.cli import main

main()
