"""Constants of MNIST: image size, labels and pixel statistics."""

IMAGE_SIZE = 28
LABELS = tuple("0123456789")

# Mean and standard deviation of all pixels of the 60,000 training images, scaled to [0, 1].
PIXEL_MEAN = 0.1307
PIXEL_STD = 0.3081
