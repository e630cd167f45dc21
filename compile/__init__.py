"""A torch module becomes an ONNX artifact."""
