"""Fetch the four MNIST files from the first source that serves them."""

from mnist_cnn.params import load_params
from mnist_cnn.paths import RAW_DATA
from mnist_cnn.sources import download
from mnist_cnn.stage import running


def main() -> None:
    """Write data/raw."""
    params = load_params()
    source = download(params.data.sources, RAW_DATA)
    print(f"MNIST came from {source}; all four SHA-256 sums match")


if __name__ == "__main__":
    with running("download"):
        main()
