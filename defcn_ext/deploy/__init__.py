"""Model files run without torch: numpy, Pillow and ONNX Runtime."""
