"""What is written is what TensorBoard reads, of a run too."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from tensorboard.summary.writer.record_writer import RecordWriter

from training.journal import FOLDER, Journal
from training.samples import save_grid


def read(run: Path) -> EventAccumulator:
    everything = {"scalars": 0, "images": 0}
    accumulator = EventAccumulator(str(run / FOLDER), size_guidance=everything)
    accumulator.Reload()
    return accumulator


def points(run: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(run).Scalars(name)]


def test_what_a_journal_writes_is_read_back(tmp_path: Path) -> None:
    save_grid(tmp_path / "grid.png", np.full((4, 8, 8, 1), 90, np.uint8))
    with Journal(tmp_path / "stats.jsonl", 0, writes=True) as journal:
        journal.write(10, loss_d=1.5, d_x=0.75, seconds=3.5)
        journal.write(20, loss_d=1.25, verdict="healthy", overfit=None, loss_g=float("nan"))
        journal.show(20, tmp_path / "grid.png")
    assert points(tmp_path, "loss/loss_d") == [(10, 1.5), (20, 1.25)]
    assert points(tmp_path, "probability/d_x") == [(10, 0.75)]
    assert points(tmp_path, "run/seconds") == [(10, 3.5)]
    found = read(tmp_path)
    assert set(found.Tags()["scalars"]) == {"loss/loss_d", "probability/d_x", "run/seconds"}
    (image,) = found.Images("samples")
    pixels = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
    assert (image.step, pixels.shape) == (20, (22, 22, 3))  # 2 x 2 tiles, 2 px between and around
    assert (pixels[2:10, 2:10] == 90).all()


def test_a_full_disk_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the call, and not by the thread that writes as well."""

    def full(*_: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    def fill() -> None:
        with Journal(tmp_path / "stats.jsonl", 0, writes=True) as journal:
            monkeypatch.setattr(RecordWriter, "write", full)
            for step in range(10_000):
                journal.write(step, loss_d=1.0)

    shown: list[object] = []
    monkeypatch.setattr(threading, "excepthook", shown.append)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / FOLDER}'"):
        fill()
    assert shown == []
    assert threading.excepthook == shown.append


@pytest.mark.parametrize("number", [8, 9])  # 9 and 10 are in another order as texts
def test_a_resumed_run_hides_what_was_lost(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_file_writer._global_uid, "_value", number)
    path = tmp_path / "stats.jsonl"
    with Journal(path, 0, writes=True) as journal:
        for step in (10, 20, 30):
            journal.write(step, loss_d=float(step))
    with Journal(path, 20, writes=True) as journal:  # it was killed; 30 comes again
        journal.write(30, loss_d=31.0)
        journal.cut(20)
        journal.write(25, loss_d=25.0)
    assert points(tmp_path, "loss/loss_d") == [(10, 10.0), (20, 20.0), (25, 25.0)]


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    with Journal(tmp_path / "stats.jsonl", 0, writes=False) as journal:
        journal.write(1, loss_d=1.0)
        journal.show(1, tmp_path / "absent.png")
    assert list(tmp_path.iterdir()) == []
