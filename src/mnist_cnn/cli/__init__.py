"""The `mnist-cnn` command."""
