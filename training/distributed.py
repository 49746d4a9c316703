"""Where a run computes: on which device, in which format, in how many processes.

Several processes are one run: ``torchrun --nproc-per-node 2 -m training ...``.

Every process holds the networks and takes its share of each batch; gradients are averaged
before each update, and BatchNorm's statistics are those of the whole batch. The run is then the
one that a single process would do, up to the order of additions in float32. Only the first
process writes.

The gradients of a network go in one message after the last backward pass, and not by
``DistributedDataParallel`` while it runs: an update has two or three backward passes into D, one
of them of second order (R1), which that wrapper does not support, and 14 MB need no overlap.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from handler.hardware import cpu_has_bfloat16

T = TypeVar("T")


class PeerError(RuntimeError):
    """Another process of the run has failed, and has said why."""


class DevicesError(RuntimeError):
    """There are more processes than GPUs."""


@dataclass(frozen=True)
class World:
    """Which process this is, of how many.

    Attributes:
        rank: 0 is the first process, the one that writes and speaks.
        size: how many there are on all machines.
        local_rank: number on this machine, which is the number of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def share(self) -> slice:
        """This process's pictures of a batch: every size-th one.

        The beginnings of all shares are then the beginning of the batch.
        """
        return slice(self.rank, None, self.size)

    def average_(self, tensor: Tensor) -> None:
        """Replace a tensor by its mean over the processes."""
        if self.size > 1:
            dist.all_reduce(tensor)
            tensor.div_(self.size)

    def average_gradients(self, module: nn.Module) -> None:
        """Replace the gradients of a network by their mean over the processes."""
        if self.size == 1:
            return
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        self.average_(flat)
        for gradient, mean in zip(
            gradients, flat.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(mean.view(gradient.shape))

    def highest(self, code: int) -> int:
        """The largest of the processes' codes; on the CPU, so that no GPU is waited for."""
        if self.size == 1:
            return code
        tensor = torch.tensor([code])
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, for all.

        Raises:
            PeerError: it failed; its own error is raised there.
        """
        if self.size == 1:
            return make()
        made: list[Any] = [None, False]
        try:
            if self.is_first:
                made = [make(), True]
        finally:
            dist.broadcast_object_list(made, src=0)
        if not made[1]:
            raise PeerError("the first process has failed")
        value: T = made[0]
        return value

    def in_turn(self, make: Callable[[], T]) -> T:
        """Run ``make`` in the first process of each machine, then in the others.

        What the first one leaves on the disk (decoded pictures) is there for the others.

        Raises:
            PeerError: it failed in another process; its own error is raised there.
        """
        if self.size == 1:
            return make()
        made: T | None = None
        error: BaseException | None = None
        for first in (True, False):
            if (self.local_rank == 0) == first:
                try:
                    made = make()
                except BaseException as caught:  # noqa: BLE001 - raised below, once all know
                    error = caught
            if self.highest(int(error is not None)):
                raise error or PeerError("another process has failed")
        assert made is not None
        return made


ALONE = World()
CPU = torch.device("cpu")


@contextmanager
def joined() -> Iterator[World]:
    """The processes that ``torchrun`` started, or this one alone.

    Raises:
        DevicesError: a machine has fewer GPUs than processes; in the first process.
        PeerError: the same, in the others.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    on_gpus = torch.cuda.is_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo")
    try:
        world = World(dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_RANK"]))
        if on_gpus:
            _take_gpu(world)
        yield world
    finally:
        dist.destroy_process_group()


def _take_gpu(world: World) -> None:
    wanted, there = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if world.highest(int(wanted > there)):
        if not world.is_first:
            raise PeerError("the first process has said why")
        raise DevicesError(
            f"each process takes a GPU, and a machine has more processes than GPUs (this one "
            f"{wanted} and {there}); lower --nproc-per-node, or set CUDA_VISIBLE_DEVICES= to train "
            "on CPUs"
        )
    torch.cuda.set_device(world.local_rank)


class _Sum(torch.autograd.Function):
    """Sum over the processes; its gradient is the sum of theirs, and so on to any order."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ARG004
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # noqa: ARG004
        return _sum(gradients[0].contiguous())


def _sum(value: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(value)
    return total


class WholeBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm in train mode over the batch of all processes.

    ``torch.nn.SyncBatchNorm`` needs GPUs and has no second derivative, which R1 takes.
    """

    def __init__(self, features: int, world: World) -> None:
        super().__init__(features)
        self.world = world

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, C, H, W) float -> the same shape and dtype; N may differ between processes."""
        if not self.training:
            return super().forward(pictures)
        values = pictures.float()
        sums = values.sum(dim=(0, 2, 3)), values.square().sum(dim=(0, 2, 3))
        count = torch.full_like(sums[0], values.numel() // values.shape[1])
        total, squares, count = _sum(torch.stack([*sums, count]))
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0.0)
        self._track(mean.detach(), variance.detach(), count.detach())
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        normed = values * scale[:, None, None] + shift[:, None, None]
        result: Tensor = normed.to(pictures.dtype)
        return result

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)


def synchronise(module: nn.Module, world: World) -> None:
    """Let the BatchNorm layers of a network see the batch of all processes; in place."""
    if world.size == 1:
        return
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            whole = WholeBatchNorm2d(child.num_features, world).to(child.weight.device)
            whole.load_state_dict(child.state_dict())
            setattr(module, name, whole)
        else:
            synchronise(child, world)


def choose_device(local_rank: int = 0) -> torch.device:
    """A CUDA GPU, each process of a machine another one, or the CPU.

    One that torch has no kernels for is left alone, which torch itself warns of.
    """
    if torch.cuda.is_available():
        gpu = torch.device(f"cuda:{local_rank}")
        try:
            torch.ones(1, device=gpu).sum().item()
        except RuntimeError as error:
            if "no kernel image" not in str(error):
                raise
        else:
            return gpu
    return torch.device("cpu")


@contextmanager
def arithmetic(precision: torch.dtype, *, deterministic: bool) -> Iterator[None]:
    """What a GPU may do for its speed: TF32, unless float32 is meant; kernels chosen by trial.

    Args:
        precision: of the run.
        deterministic: only kernels that give the same bits each time.
    """
    cudnn: Any = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.conv.fp32_precision
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    cudnn.benchmark = not deterministic
    # TF32 keeps 10 bits of 23. (Products of matrices are not in it unless asked for.)
    cudnn.conv.fp32_precision = "ieee" if precision is torch.float32 else "tf32"
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at its first product
    torch.use_deterministic_algorithms(deterministic)
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.conv.fp32_precision = before
        torch.use_deterministic_algorithms(was_deterministic)


def choose_precision(
    wanted: Literal["auto", "float32", "bfloat16"], device: torch.device
) -> torch.dtype:
    """``auto`` is bfloat16 where matrix units for it exist, else float32.

    On a GPU these are tensor cores from Ampere on, on a CPU AMX and AVX512-BF16; without them
    bfloat16 is emulated and slower. float16 is not on offer: its gradients need a scale that
    changes with them, for R1's second derivative too.
    """
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float32
    return torch.bfloat16 if cpu_has_bfloat16() else torch.float32
