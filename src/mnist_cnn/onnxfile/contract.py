"""What an ONNX file of the pipeline promises to whoever runs it; see docs/onnx.md."""

INPUT = "image"  # uint8 [batch, 28, 28], 0 is paper and 255 is ink
OUTPUTS = ["logits", "probabilities"]  # each float [batch, labels]

# Properties in the file's metadata.
LABELS_KEY = "labels"  # joined by commas, which none of them holds
# One for each label; an image whose logit is lower may be no digit.
LOGIT_THRESHOLDS_KEY = "logit_thresholds"
CHECKSUM_KEY = "content_sha256"  # of the whole file, with 64 zeros in place of this very value
