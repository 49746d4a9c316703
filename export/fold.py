"""BatchNorm folded into the convolution before it: the same function with less to compute."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from training.networks import Generator


def fold_batchnorm(generator: Generator) -> Generator:
    """A copy without BatchNorm, equal up to the rounding of float32.

    In eval mode BatchNorm is an affine map of each channel, and so a factor of the weights and
    a bias (B. Jacob et al., arXiv:1712.05877, section 3.2).

    Args:
        generator: in eval mode; it is not changed.
    """
    folded = copy.deepcopy(generator)
    layers: list[nn.Module] = []
    for layer in folded.layers:
        if isinstance(layer, nn.BatchNorm2d):
            convolution = layers.pop()
            assert isinstance(convolution, nn.ConvTranspose2d)
            layers.append(fuse_conv_bn_eval(convolution, layer, transpose=True))
        else:
            layers.append(layer)
    folded.layers = nn.Sequential(*layers)
    return folded
