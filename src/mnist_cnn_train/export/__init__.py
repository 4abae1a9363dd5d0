"""Export trained weights to ONNX files, and check them."""
