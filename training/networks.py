"""Generator and Discriminator of DCGAN, with the depth derived from the picture size.

Source: Radford, Metz, Chintala, "Unsupervised Representation Learning with Deep
Convolutional Generative Adversarial Networks", arXiv:1511.06434, section 3. The kernel
size 4, the widths (ngf, ndf) and the absence of biases follow the PyTorch "DCGAN faces"
tutorial, which halves the paper's widths; a Discriminator without BatchNorm has biases.

Sizes of a stride-2 step: convolution ``(H + 2*1 - 4)//2 + 1 = H/2``, transposed
convolution ``(H - 1)*2 - 2*1 + 4 = 2H``.

For CPUs in bfloat16 these convolutions are matrix products here. oneDNN's of this shape reach a
tenth of what AMX gives a plain product of matrices, least of all the gradient of the weights, where
few positions (4 x 4 to 8 x 8) meet many channels. So each of their three products (result, gradient
of the input, gradient of the weights) is one matrix product, on patches gathered side by side
("im2col": Chellapilla et al., 2006). Both layers rest on the same two functions, ``gather`` and its
transpose ``scatter``, as one layer is the other's transpose.
"""

from __future__ import annotations

from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

IMAGE_SIZES = (32, 64, 128, 256)
FEWEST_CHANNELS = 128  # of the larger picture; below, gathering costs more than it saves
DiscriminatorNorm = Literal["batch", "spectral", "none"]
LatentLaw = Literal["normal", "uniform"]


def check_geometry(image_size: int, channels: int) -> int:
    """Return how many stride-2 steps lie between 4x4 and ``image_size`` (64 px: 4).

    Raises:
        ValueError: the size or the number of channels is not supported.
    """
    if image_size not in IMAGE_SIZES:
        allowed = ", ".join(map(str, IMAGE_SIZES))
        raise ValueError(f"image size {image_size} is not supported; choose one of {allowed}")
    if channels not in (1, 3):
        raise ValueError(f"{channels} channels are not supported; choose 1 (grey) or 3 (RGB)")
    return image_size.bit_length() - 3


class UniformLatents(nn.Module):
    """N(0, 1) to U(-1, 1), element by element: ``2 Phi(z) - 1 = erf(z / sqrt 2)``.

    The uniform law is made inside the network, so that whoever draws latents (training,
    server, client) always draws from N(0, 1).
    """

    def forward(self, latents: Tensor) -> Tensor:
        """Float of any shape -> the same shape, in [-1, 1]."""
        return torch.erf(latents * 0.5**0.5)


class Generator(nn.Module):
    """Latent to picture: a projection to 4x4, then stride-2 transposed convolutions.

    Args:
        nz: length of a latent.
        ngf: feature maps before the last layer; each layer towards the latent doubles them.
        channels: 1 (grey) or 3 (RGB).
        image_size: height and width, px: 32, 64, 128 or 256.
        latent: what the first layer sees: N(0, 1) as it comes in (the tutorial), or U(-1, 1)
            made of it (the paper).

    Raises:
        ValueError: one of them is not supported.
    """

    def __init__(
        self,
        nz: int = 100,
        ngf: int = 64,
        channels: int = 3,
        image_size: int = 64,
        latent: LatentLaw = "normal",
    ) -> None:
        super().__init__()
        steps = check_geometry(image_size, channels)
        if latent not in get_args(LatentLaw):
            allowed = " or ".join(get_args(LatentLaw))
            raise ValueError(f"latent {latent!r} is not supported; choose {allowed}")
        self.nz, self.ngf, self.channels, self.image_size = nz, ngf, channels, image_size
        self.latent: LatentLaw = latent
        width = ngf * 2 ** (steps - 1)
        layers: list[nn.Module] = [UniformLatents()] if latent == "uniform" else []
        layers += [
            nn.ConvTranspose2d(nz, width, 4, 1, 0, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        for _ in range(steps - 1):
            layers += [
                DoublingConv2d(width, width // 2),
                nn.BatchNorm2d(width // 2),
                nn.ReLU(inplace=True),
            ]
            width //= 2
        layers += [DoublingConv2d(width, channels), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Tensor) -> Tensor:
        """N(0, 1) latents (N, nz) float -> pictures (N, channels, H, W) float in [-1, 1]."""
        # No view(-1, nz, 1, 1): an exported file would cut any numbers into latents.
        pictures: Tensor = self.layers(latents.unsqueeze(2).unsqueeze(3))
        return pictures


class GroupLogits(nn.Conv2d):
    """The last convolution of a Discriminator that compares the pictures of a group.

    One picture does not show that a colour of fur comes too often, or never. So to each logit
    comes a weighted sum of the features' standard deviations over the group, of each feature's
    mean over the picture: what the picture is of, and not how fine it is drawn. After the
    minibatch standard deviation of Karras et al. (arXiv:1710.10196, section 3), who average all
    deviations to one number and give it to a convolution. The weights are 0 at first; spectral
    norm leaves them alone.

    Args:
        width: feature maps, 4 x 4 px each.
        group: pictures a group. N pictures are N / group groups, every (N / group)-th picture of
            the batch in the same one (so processes that share a batch make the same groups), or
            one group of all, where they do not divide.
    """

    def __init__(self, width: int, group: int) -> None:
        super().__init__(width, 1, 4, bias=False)
        self.group = group
        self.deviation_weight = nn.Parameter(torch.zeros(width))

    def forward(self, input: Tensor) -> Tensor:
        """(N, width, 4, 4) float -> logits (N, 1, 1, 1)."""
        count = len(input)
        groups = count // self.group if count % self.group == 0 else 1
        means = input.float().mean(dim=(2, 3)).unflatten(0, (-1, groups))
        deviations = (means.var(dim=0, correction=0) + 1e-8).sqrt()
        compared: Tensor = (deviations * self.deviation_weight).sum(dim=1)
        logits: Tensor = super().forward(input)
        return logits + compared.repeat(count // groups).view(-1, 1, 1, 1)


class Discriminator(nn.Module):
    """Picture to one logit (no Sigmoid: the losses work on logits).

    Args:
        ndf: feature maps after the first layer; each further layer doubles them.
        channels: 1 or 3.
        image_size: height and width, px: 32, 64, 128 or 256.
        norm: ``batch`` (the paper; none on the first layer), ``spectral``
            (Miyato et al., arXiv:1802.05957, in place of BatchNorm) or ``none``. Without BatchNorm
            all convolutions but the last have biases. D would be homogeneous without them,
            D(a x) = a D(x) for a >= 0, and G would escape it by fading to grey, where D is 0.
        group: pictures whose features the last layer compares (``GroupLogits``); 0: none.
    """

    def __init__(
        self,
        ndf: int = 64,
        channels: int = 3,
        image_size: int = 64,
        norm: DiscriminatorNorm = "batch",
        group: int = 0,
    ) -> None:
        super().__init__()
        steps = check_geometry(image_size, channels)
        bias = norm != "batch"
        layers: list[nn.Module] = [
            HalvingConv2d(channels, ndf, bias=bias),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        width = ndf
        for _ in range(steps - 1):
            layers.append(HalvingConv2d(width, width * 2, bias=bias))
            if norm == "batch":
                layers.append(nn.BatchNorm2d(width * 2))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            width *= 2
        layers.append(
            GroupLogits(width, group) if group else nn.Conv2d(width, 1, 4, 1, 0, bias=False)
        )
        self.layers = nn.Sequential(*layers)
        # Initialised before spectral_norm wraps the weights: afterwards `weight` is a
        # computed copy, and writing to it changes nothing.
        self.apply(init_weights)
        if norm == "spectral":
            for layer in self.layers:
                if isinstance(layer, nn.Conv2d):
                    spectral_norm(layer)

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, channels, H, W) float in [-1, 1] -> logits (N,) float."""
        logits: Tensor = self.layers(pictures).view(-1)
        return logits


def init_weights(module: nn.Module) -> None:
    """Convolutions ~ N(0, 0.02), BatchNorm gain ~ N(1, 0.02), biases 0 (paper, section 4)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def new_generator(
    nz: int, ngf: int, channels: int, image_size: int, latent: LatentLaw = "normal"
) -> Generator:
    """A Generator with the paper's initial weights, drawn from torch's global generator."""
    generator = Generator(nz, ngf, channels, image_size, latent)
    generator.apply(init_weights)
    return generator


def gather(pictures: Tensor) -> Tensor:
    """The patch of 4 x 4 under each position of the halved picture.

    Args:
        pictures: (N, C, 2h, 2w); fastest in channels_last.

    Returns:
        (N h w, 16 C), columns ordered (row, column, channel).
    """
    count, channels, height, width = pictures.shape
    padded = F.pad(pictures.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    patches = padded.unfold(1, 4, 2).unfold(2, 4, 2).permute(0, 1, 2, 4, 5, 3)
    return patches.reshape(count * (height // 2) * (width // 2), 16 * channels)


def scatter(patches: Tensor, count: int, height: int, width: int) -> Tensor:
    """Add patches up where they overlap: the transpose of ``gather``.

    Args:
        patches: (N h w, 16 C).
        count, height, width: N, h and w.

    Returns:
        (N, C, 2h, 2w), channels_last.
    """
    channels = patches.shape[1] // 16
    # A row of a patch is 2a + b: two rows b belong to position a.
    blocks = patches.view(count, height, width, 2, 2, 2, 2, channels)
    padded = patches.new_zeros(count, height + 1, 2, width + 1, 2, channels)
    for down in (0, 1):
        for right in (0, 1):
            block = blocks[:, :, :, down, :, right].permute(0, 1, 3, 2, 4, 5)
            padded[:, down : down + height, :, right : right + width].add_(block)
    pictures = padded.view(count, 2 * height + 2, 2 * width + 2, channels)
    return pictures[:, 1:-1, 1:-1].permute(0, 3, 1, 2)


class Halve(Function):
    """Convolution by matrix products; has no second derivative, and says so when asked for one."""

    @staticmethod
    def forward(ctx: Any, pictures: Tensor, weight: Tensor) -> Tensor:
        """(N, C, 2h, 2w), weight (K, C, 4, 4) of the same dtype -> (N, K, h, w)."""
        count, _, height, width = pictures.shape
        ctx.halved = count, height // 2, width // 2
        patches = gather(pictures)
        ctx.save_for_backward(patches, weight)
        return _as_pictures(patches @ _as_matrix(weight).t(), *ctx.halved)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of the pictures and of the weight."""
        patches, weight = ctx.saved_tensors
        rows = _as_rows(gradient)
        for_pictures = for_weight = None
        if ctx.needs_input_grad[0]:
            for_pictures = scatter(rows @ _as_matrix(weight), *ctx.halved)
        if ctx.needs_input_grad[1]:
            for_weight = _as_weight(rows.t() @ patches)
        return for_pictures, for_weight


class Double(Function):
    """Transposed convolution by matrix products; ``Halve`` with forward and backward swapped."""

    @staticmethod
    def forward(ctx: Any, pictures: Tensor, weight: Tensor) -> Tensor:
        """(N, K, h, w), weight (K, C, 4, 4) of the same dtype -> (N, C, 2h, 2w)."""
        count, _, height, width = pictures.shape
        rows = _as_rows(pictures)
        ctx.halved = count, height, width
        ctx.save_for_backward(rows, weight)
        return scatter(rows @ _as_matrix(weight), *ctx.halved)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of the pictures and of the weight."""
        rows, weight = ctx.saved_tensors
        patches = gather(gradient)
        for_pictures = for_weight = None
        if ctx.needs_input_grad[0]:
            for_pictures = _as_pictures(patches @ _as_matrix(weight).t(), *ctx.halved)
        if ctx.needs_input_grad[1]:
            for_weight = _as_weight(rows.t() @ patches)
        return for_pictures, for_weight


class HalvingConv2d(nn.Conv2d):
    """``nn.Conv2d`` with kernel 4, stride 2, padding 1, by whichever way is faster."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__(inputs, outputs, 4, 2, 1, bias=bias)

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, inputs, 2h, 2w) -> (N, outputs, h, w)."""
        if not _by_products(pictures, self.in_channels):
            return super().forward(pictures)
        halved = cast(Tensor, Halve.apply(pictures.bfloat16(), self.weight.bfloat16()))
        return halved if self.bias is None else halved + self.bias.bfloat16()[:, None, None]


class DoublingConv2d(nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` with kernel 4, stride 2, padding 1, by whichever way is faster."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 4, 2, 1, bias=False)

    def forward(self, pictures: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(N, inputs, h, w) -> (N, outputs, 2h, 2w)."""
        if output_size is not None or not _by_products(pictures, self.out_channels):
            return super().forward(pictures, output_size)
        return cast(Tensor, Double.apply(pictures.bfloat16(), self.weight.bfloat16()))


def _by_products(pictures: Tensor, channels: int) -> bool:
    return (
        channels >= FEWEST_CHANNELS
        and pictures.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
    )


def _as_matrix(weight: Tensor) -> Tensor:
    """(K, C, 4, 4) -> (K, 16 C), without a copy where it is channels_last."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def _as_weight(matrix: Tensor) -> Tensor:
    """(K, 16 C) -> (K, C, 4, 4), channels_last."""
    return matrix.view(len(matrix), 4, 4, -1).permute(0, 3, 1, 2)


def _as_rows(pictures: Tensor) -> Tensor:
    """(N, C, h, w) -> (N h w, C), without a copy where it is channels_last."""
    return pictures.permute(0, 2, 3, 1).reshape(-1, pictures.shape[1])


def _as_pictures(rows: Tensor, count: int, height: int, width: int) -> Tensor:
    """(N h w, C) -> (N, C, h, w), channels_last."""
    return rows.view(count, height, width, -1).permute(0, 3, 1, 2)
