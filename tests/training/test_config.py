"""Settings: recipes, precedence, ranges, unknown keys, differences."""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from deploy.server import ROOT
from tests.support.tiny_runs import refused
from training.config import (
    ConfigError,
    TrainConfig,
    differences,
    fitting_group,
    from_mapping,
    recipe_defaults,
)
from training.loop import PROVENANCE
from training.start import parse
from training.weights import load_generator


def test_paper_recipe_is_the_tutorial() -> None:
    paper = recipe_defaults("paper")
    assert (paper.batch_size, paper.nz, paper.image_size) == (128, 100, 64)
    assert paper.ngf == paper.ndf == 64
    assert paper.loss == "non-saturating"
    assert (paper.lr_g, paper.lr_d, paper.beta1, paper.seed) == (2e-4, 2e-4, 0.5, 999)
    assert (paper.r1_gamma, paper.ema_decay, paper.label_smoothing) == (0, 0, 0)
    assert (paper.instance_noise, paper.diffaugment, paper.d_norm) == (0, "off", "batch")
    assert (paper.held_out, paper.precision, paper.compile) == (0, "float32", False)


def test_stable_recipe() -> None:
    stable = parse([])
    assert (stable.batch_size, stable.d_norm, stable.group) == (16, "none", 8)
    assert (stable.r1_gamma, stable.ema_decay, stable.loss) == (0.3, 0.999, "relativistic")
    assert (stable.lr_g, stable.lr_d, stable.lr_g_warmup_steps) == (4e-4, 4e-4, 300)
    assert (stable.max_steps, stable.decay(30_000), stable.decay(45_000)) == (60_000, 1.0, 0.5)


def test_the_shipped_weights_are_what_the_default_command_makes() -> None:
    """As the model card says; a run settles two settings by its batch and its pictures."""
    made = load_generator(ROOT / "model_store" / "generator.safetensors")[1].provenance
    default = asdict(replace(parse([]), d_group=8, diffaugment="off"))
    assert {name: made[name] for name in PROVENANCE} == {name: default[name] for name in PROVENANCE}
    assert (made["steps"], made["ended"], made["data"]) == (60_000, "finished", "avatars")
    assert (made["start_from"], made["start_d_from"], made["inherited"]) == (None, None, [])


def test_rates_fall_over_half_of_a_short_run() -> None:
    short = parse(["--max-steps", "1000"])
    assert (short.decay(500), short.decay(750)) == (1.0, 0.5)
    assert parse(["--max-steps", "1000", "--lr-decay-steps", "100"]).decay(900) == 1.0
    assert parse(["--max-steps", "1"]).decay(0) == 1.0


def test_flags_over_file_over_recipe(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"batch_size": 16, "nz": 50, "lr_d": 1}))
    config = parse(["--recipe", "paper", "--config", str(file), "--nz", "20"])
    assert (config.recipe, config.batch_size, config.nz, config.lr_d) == ("paper", 16, 20, 1.0)
    assert config.r1_gamma == 0


def test_a_recipe_in_a_file_is_one(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text('{"recipe": "paper", "nz": 50}', encoding="utf-16")  # as PowerShell does
    config = parse(["--config", str(file)])
    expected = parse(["--recipe", "paper", "--nz", "50", "--config", str(file)])
    assert config == expected == replace(recipe_defaults("paper"), nz=50, config=file)
    stable = parse(["--config", str(file), "--recipe", "stable"])
    assert stable == replace(recipe_defaults("stable"), nz=50, config=file)


@pytest.mark.parametrize("field", [field.name for field in fields(TrainConfig)])
def test_every_value_is_taken_or_refused_by_name(field: str) -> None:
    for value in (5, -1, 1.5, True, "x", "a\0b", "", None, [], {}, 10**400, float("nan")):
        try:
            taken = getattr(from_mapping({field: value}, TrainConfig()), field)
        except ConfigError as error:
            assert str(error).replace(" ", "_").startswith((field, "colour"))  # noqa: PT017
        else:
            assert taken == value or str(taken) == (str(value) or "."), value


def test_unknown_flag_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--batch-size" in refused(capsys, "--batchsize 3")


OUT_OF_RANGE: list[tuple[str, Any]] = [
    ("batch_size", 1), ("max_steps", 0), ("image_size", 48), ("seed", -1), ("seed", 2**53),
    ("ema_decay", 1.0), ("label_smoothing", -0.1), ("background", "white"), ("workers", 0),
    ("lr_g", float("nan")), ("nz", 2**14), ("ngf", 2**11), ("ndf", 2**11), ("max_steps", 10**8),
]  # fmt: skip
NO_CHOICES = {"loss": "wgan", "latent": "sphere", "d_norm": "layer", "on_dead": "pray"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"batchsize": 3}, "did you mean 'batch_size'"),
    ({"batch_size": "3"}, "batch_size is '3'; it must be a valid integer"),
    ({"held_out": True}, "held_out is True; it must be a valid integer"),
    ({"resume": "yes"}, "resume is 'yes'; it must be a valid boolean"),
    ({"out": "a\0b"}, "must not hold NUL"),
    *(({name: value}, str(value)) for name, value in OUT_OF_RANGE),
    *(({name: value}, rf"{name} is '{value}'; it must be '\w")
      for name, value in NO_CHOICES.items()),
    # Labels are smoothed where there are labels.
    *(({"loss": loss, "label_smoothing": 0.1}, f"label_smoothing is 0.1 with loss {loss}")
      for loss in ("hinge", "lsgan", "relativistic")),
    # Groups divide half of the batch.
    *(({"batch_size": 16, "d_group": group}, f"d_group is {group}.*must be")
      for group in (1, 3, 16, 32, -2)),
]  # fmt: skip


@pytest.mark.parametrize(("given", "words"), REFUSED, ids=str)
def test_what_cannot_be_is_refused(given: dict[str, Any], words: str) -> None:
    """Also from a file, which the parser of flags does not see."""
    with pytest.raises(ConfigError, match=words):
        from_mapping(given, TrainConfig())


@pytest.mark.parametrize(
    ("batch_size", "processes", "group"),
    [(64, 1, 32), (128, 1, 32), (96, 1, 24), (16, 1, 8), (64, 2, 16), (26, 1, 13), (2, 1, 0),
     (25, 1, 0), (6, 2, 0)],
)  # fmt: skip
def test_groups_fit_where_nothing_is_said(batch_size: int, processes: int, group: int) -> None:
    assert fitting_group(batch_size, processes) == group
    replace(TrainConfig(), batch_size=batch_size, d_group=group)


def test_no_cache_can_be_asked_for() -> None:
    assert parse(["--cache", "None"]).cache is None
    assert parse(["--cache", "elsewhere"]).cache == Path("elsewhere")


def test_only_what_changes_the_result_is_a_difference() -> None:
    saved = replace(TrainConfig(), lr_decay_steps=0)
    longer = replace(saved, max_steps=9, workers=1, resume=True)
    assert differences(saved, longer) == []
    assert differences(replace(saved, instance_noise=0.1), replace(longer, instance_noise=0.1))
    assert differences(replace(saved, lr_decay_steps=5), replace(longer, lr_decay_steps=5))
    assert differences(saved, replace(saved, nz=7)) == ["nz: the run has 100, asked for 7"]
