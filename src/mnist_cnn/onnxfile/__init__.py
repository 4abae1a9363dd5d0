"""The contract of exported ONNX files, and how to open them."""
