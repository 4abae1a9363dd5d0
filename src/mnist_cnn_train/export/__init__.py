"""From trained weights to checked ONNX files."""
