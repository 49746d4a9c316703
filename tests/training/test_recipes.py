"""``python -m benchmarks.recipes``, interrupted in a candidate."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.server import ROOT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_it_all_and_not_one_candidate(number: int, tmp_path: Path) -> None:
    picture = tmp_path / "recipes.png"
    command = [
        sys.executable, "-m", "benchmarks.recipes", "--steps", "1000000", "--image-size", "32",
        "--width", "2", "--picture", str(picture),
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # more would wait for one another
    ) as process:  # fmt: skip
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == "the tutorial's, averaged\n"
            while process.stderr.read(1) not in ("%", ""):  # of the progress: it trains
                pass
            process.send_signal(number)
            printed, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "R1, gamma 1" not in said
    assert len(printed.splitlines()) == 2  # the head of the table
    assert not picture.exists()
