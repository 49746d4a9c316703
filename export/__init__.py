"""From Generator weights to what is served: TorchScript, ONNX, and the archive dcgan.mar."""
