"""Convert any picture to 28x28 images in MNIST's format."""
