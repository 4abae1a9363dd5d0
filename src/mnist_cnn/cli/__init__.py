"""The command `mnist-cnn`."""
