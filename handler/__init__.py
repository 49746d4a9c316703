"""From a request to a PNG, inside TorchServe. Packed as this folder into dcgan.mar."""
