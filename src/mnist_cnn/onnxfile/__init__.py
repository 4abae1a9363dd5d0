"""The exported ONNX files: what they promise, and how they are opened."""
