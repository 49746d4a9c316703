"""What is written is what TensorBoard reads."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.tensorboard import FOLDER, EventWriter

pytestmark = pytest.mark.unit


def read(run: Path) -> EventAccumulator:
    everything = {"scalars": 0, "images": 0, "histograms": 0}
    accumulator = EventAccumulator(str(run / FOLDER), size_guidance=everything)
    accumulator.Reload()
    return accumulator


def test_numbers_samples_and_weights_are_read_back(tmp_path: Path) -> None:
    images = np.full((4, 8, 8, 3), 90, np.uint8)
    network = torch.nn.Linear(2, 3)
    broken = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(broken.weight, float("nan"))
    with EventWriter(tmp_path) as events:
        events.numbers(10, {"loss/D": 1.5, "loss/G": 0.25})
        events.numbers(20, {"loss/D": 1.25})
        events.samples(20, "samples", images)
        events.weights(20, "G", network)
        events.weights(20, "D", broken)
    found = read(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("loss/D")] == [(10, 1.5), (20, 1.25)]
    assert [(e.step, e.value) for e in found.Scalars("loss/G")] == [(10, 0.25)]
    (image,) = found.Images("samples")
    pixels = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
    assert pixels.shape == (22, 22, 3)  # 2 x 2 tiles with 2 px between and around
    assert (pixels[2:10, 2:10] == 90).all()
    (histogram,) = found.Histograms("G/weight")
    assert histogram.histogram_value.num == 6
    assert set(found.Tags()["histograms"]) == {"G/weight", "G/bias", "D/bias"}


def test_a_resumed_run_hides_what_was_lost(tmp_path: Path) -> None:
    with EventWriter(tmp_path) as events:
        for step in (10, 20, 30):
            events.numbers(step, {"loss/D": float(step)})
    with EventWriter(tmp_path, first_step=20) as events:  # it was killed; 30 comes again
        events.numbers(30, {"loss/D": 31.0})
    assert [(e.step, e.value) for e in read(tmp_path).Scalars("loss/D")] == [
        (10, 10.0),
        (20, 20.0),
        (30, 31.0),
    ]
