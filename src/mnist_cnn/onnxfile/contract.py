"""What an ONNX file of the pipeline promises to whoever runs it; docs are in the README."""

INPUT = "image"  # uint8 [batch, 28, 28], 0 is paper and 255 is ink
OUTPUTS = ["logits", "probabilities"]  # each float [batch, labels]

# Properties in the file's metadata.
LABELS = "labels"  # joined by commas, which none of them holds
LEAST_LOGITS = "least_logits"  # one for each label; an image read with a lower one may be no digit
DIGEST = "content_sha256"  # of the whole file, with 64 zeros in place of this very value
