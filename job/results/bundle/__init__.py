"""The bundle: a model that travels as ONNX, with its proof and its card."""
