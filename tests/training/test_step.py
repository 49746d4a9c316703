"""One update: which losses and options it can take, and that it never waits for the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.tiny_runs import CPU, TINY
from training import step
from training.networks import Generator
from training.step import StepStats, Trainer
from training.weights import recalibrate

pytestmark = [pytest.mark.usefixtures("quick")]

# Each option that changes what an update computes, alone and with others.
OPTIONS: list[dict[str, Any]] = [
    {}, {"loss": "hinge"}, {"loss": "lsgan"}, {"loss": "non-saturating"},
    {"latent": "uniform"}, {"d_norm": "spectral"},
    {"d_norm": "batch", "d_group": 0}, {"r1_gamma": 0.0}, {"d_norm": "batch", "d_group": 2},
    {"diffaugment": "on"}, {"instance_noise": 0.1},
    {"loss": "non-saturating", "label_smoothing": 0.1},
    {"lr_g": 1e-4, "lr_d": 4e-4}, {"ema_decay": 0.0},
    {"lr_decay_steps": 2, "lr_g_warmup_steps": 2},
    {"loss": "hinge", "latent": "uniform", "d_norm": "spectral", "diffaugment": "on"},
]  # fmt: skip


def real_batch(seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(4, 3, 32, 32, generator=rng) * 2 - 1


def updated(options: dict[str, Any], steps: int = 3) -> tuple[Trainer, list[StepStats]]:
    trainer = Trainer(replace(TINY, max_steps=steps, **options), 3, CPU, torch.float32)
    return trainer, [trainer.step(real_batch(i), i) for i in range(steps)]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_trains_both_networks(options: dict[str, Any]) -> None:
    before = Trainer(replace(TINY, max_steps=3, **options), 3, CPU, torch.float32)
    trainer, stats = updated(options)
    for name in ("generator", "discriminator"):
        pairs = zip(
            getattr(before, name).parameters(), getattr(trainer, name).parameters(), strict=True
        )
        assert all(not torch.equal(old, new) for old, new in pairs)
    for field in fields(StepStats):
        value = getattr(stats[-1], field.name)
        assert value.shape == ()
        assert torch.isfinite(value)
    assert stats[-1].grad_d > 0
    assert stats[-1].grad_g > 0


def test_no_option_is_without_effect() -> None:
    """No two lines of the table end with the same weights."""
    ends: dict[bytes, dict[str, Any]] = {}
    for options in OPTIONS:
        trainer, _ = updated(options)
        parameters = [p.flatten() for p in trainer.ema.generator.parameters()]
        end = torch.cat(parameters).numpy().tobytes()
        assert end not in ends, f"{options} and {ends.get(end)}"
        ends[end] = options


def test_the_average_is_taken_after_the_update() -> None:
    trainer, _ = updated({"ema_decay": 0.0})
    pairs = zip(trainer.ema.generator.parameters(), trainer.generator.parameters(), strict=True)
    assert all(torch.equal(averaged, last) for averaged, last in pairs)


class NoWaiting(TorchDispatchMode):
    """Refuses what would wait for a GPU: a number of the device as a number of Python."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        if function is torch.ops.aten._local_scalar_dense.default:
            raise AssertionError("a tensor was read in the middle of an update")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_update_never_waits_for_the_device(options: dict[str, Any]) -> None:
    trainer = Trainer(replace(TINY, **options), 3, CPU, torch.float32)
    trainer.step(real_batch(), 0)  # the optimisers make their state
    with NoWaiting():
        trainer.step(real_batch(), 1)
        trainer.step(real_batch(), 16)  # with R1
        with pytest.raises(AssertionError, match="was read"):
            torch.zeros(1).item()


def test_gs_step_leaves_no_gradient_in_d() -> None:
    """D's parameters take one gradient an update: of its own loss."""
    trainer = Trainer(replace(TINY, r1_gamma=0.0), 3, CPU, torch.float32)
    taken: list[int] = []
    for parameter in trainer.discriminator.parameters():
        parameter.register_hook(lambda _: taken.append(1))
    trainer.step(real_batch(), 0)
    assert len(taken) == len(list(trainer.discriminator.parameters()))
    assert all(parameter.requires_grad for parameter in trainer.discriminator.parameters())


def test_asking_for_opinions_changes_nothing() -> None:
    for norm in ("batch", "spectral"):
        trainer, _ = updated({"d_norm": norm, "diffaugment": "on"})
        networks = (trainer.generator, trainer.discriminator)
        before = [{k: v.clone() for k, v in n.state_dict().items()} for n in networks]
        on_real, on_fake = trainer.outputs(real_batch(), 3)
        assert on_real.shape == on_fake.shape == (4,)
        for network, state in zip(networks, before, strict=True):
            assert all(torch.equal(state[k], v) for k, v in network.state_dict().items())


def test_bfloat16_updates_float32_weights() -> None:
    trainer = Trainer(TINY, 3, CPU, torch.bfloat16)
    stats = [trainer.step(real_batch(i), i) for i in range(2)]
    assert all(p.dtype == torch.float32 for p in trainer.generator.parameters())
    plain, exact = updated({}, 2)
    assert stats[1].loss_d.item() == pytest.approx(exact[1].loss_d.item(), rel=0.05)
    assert not torch.equal(next(plain.generator.parameters()), next(trainer.generator.parameters()))


def test_losses_take_float32_outside_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside, some losses are refused and others lose digits."""
    seen: list[tuple[torch.dtype, bool]] = []

    def watched(loss: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def look(some: torch.Tensor, others: torch.Tensor, *rest: Any) -> torch.Tensor:
            seen.extend((x.dtype, torch.is_autocast_enabled("cpu")) for x in (some, others))
            return loss(some, others, *rest)

        return look

    for name in ("loss_discriminator", "loss_generator"):
        monkeypatch.setattr(step, name, watched(getattr(step, name)))
    Trainer(TINY, 3, CPU, torch.bfloat16).step(real_batch(), 0)
    assert seen == [(torch.float32, False)] * 4


def test_compiled_networks_do_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captured as torch.compile captures; without its C++ compiler, which takes a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    plain, exact = updated({}, 2)
    compiled, stats = updated({"compile": True}, 2)
    for field in fields(StepStats):
        ours, theirs = (getattr(s[-1], field.name).item() for s in (stats, exact))
        assert ours == pytest.approx(theirs, rel=1e-3), field.name
    names = [list(t.generator.state_dict()) for t in (plain, compiled)]
    assert names[0] == names[1]  # no _orig_mod.


def test_uniform_latents_are_uniform() -> None:
    generator = Generator(nz=4, ngf=2, image_size=32, latent="uniform")
    drawn = generator.layers[0](torch.randn(50_000, generator=torch.Generator().manual_seed(0)))
    counts = torch.histc(drawn, bins=10, min=-1, max=1) / 50_000
    assert (counts - 0.1).abs().max() < 0.005
    assert generator.layers[0](torch.tensor([0.0, 0.6744898])).tolist() == pytest.approx([0, 0.5])


def test_uniform_latents_survive_calibration_and_keep_the_contract() -> None:
    """Whoever draws N(0, 1) is right for both laws."""
    trainer, _ = updated({"latent": "uniform"})
    generator = recalibrate(trainer.ema.generator, 64)
    assert generator.latent == "uniform"
    extreme = generator(torch.tensor([[50.0, -50.0, 0.0, 0.0, 0.0, 0.0]]))
    corner = generator.layers[1:](torch.tensor([[1.0, -1.0, 0, 0, 0, 0]]).view(1, 6, 1, 1))
    assert torch.equal(extreme, corner)
