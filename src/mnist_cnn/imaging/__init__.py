"""From any picture to 28x28 images as MNIST has them."""
