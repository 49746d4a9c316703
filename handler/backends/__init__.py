"""The network: latents in, pixels out. Four ways to run it, one rule to choose (``choose``).

Sameness on the CPU. Measured with torch 2.14 in float32 for batches of 1 to 64 images: with
one thread an image has the same bits alone, in any batch and at any place in it. With more
threads it has not (a generator of ngf 16 differs by 1e-9 in batches of 3 with 2 threads; with
3, 8 or 16 threads one of ngf 64 does too, even in batches of 16), because oneDNN divides the
work by both, and padding to a fixed set of sizes does not mend that. So a forward pass has
one thread here, and the processors are used by cutting the batch into slices that run side by
side. ONNX Runtime showed no difference with 1, 2, 4 and 8 threads, but with 3 and 16; so ``onnx``
finds out at the start whether several may share a small batch. The convolutions of ``packed``
showed none with 1 to 16, yet two threads gained nothing there. How a GPU is to keep the promise
says ``torch_gpu``; no GPU has been there to show it.
"""
