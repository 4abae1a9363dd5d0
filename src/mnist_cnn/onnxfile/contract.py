"""Inputs, outputs and metadata of the pipeline's ONNX files; see docs/onnx.md."""

INPUT = "image"  # uint8 [batch, 28, 28], 0 is paper and 255 is ink
OUTPUTS = ["logits", "probabilities"]  # each float [batch, labels]

# Only of models that reject: float [batch], the probability that an image is not a digit.
NOT_A_DIGIT = "not_a_digit"

# Metadata properties of the file.
LABELS_KEY = "labels"  # separated by commas, which no label contains
LOGIT_THRESHOLDS_KEY = "logit_thresholds"  # one per label; images below it may not be digits
NOT_A_DIGIT_THRESHOLD_KEY = "not_a_digit_threshold"  # images above it may not be digits
CHECKSUM_KEY = "content_sha256"  # of the whole file, with 64 zeros in place of this value
