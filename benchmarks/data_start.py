"""``python -m benchmarks.data_start``: how long training takes to have its pictures.

Writes a folder of JPEG files and opens it twice, each time in a new process: the first one
decodes, the second one finds what the first has kept. JSON on stdout.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.training_speed import BACKGROUND, write_pictures

DISTINCT = 500
# Memory of its own is what the process needs; mapped pictures can be dropped at any time.
PROGRAM = f"""
import json, sys, time
from pathlib import Path
from training.data.folders import load_folder
def memory():
    lines = Path("/proc/self/status").read_text().splitlines()
    return {{line.split(":")[0]: int(line.split()[1]) // 1024 for line in lines if " kB" in line}}
before, started = memory(), time.perf_counter()
pictures = load_folder(
    Path(sys.argv[1]), image_size=int(sys.argv[2]), channels="auto", workers=int(sys.argv[3]),
    background={BACKGROUND!r}, cache=Path(sys.argv[4]),
)
seconds, after = time.perf_counter() - started, memory()
print(json.dumps({{
    "seconds": round(seconds, 2), "pictures": len(pictures.images),
    "own_memory_more_mib": after["RssAnon"] - before["RssAnon"],
}}))
"""


@dataclass(frozen=True)
class StartConfig:
    """Time the first and the second start on one folder."""

    pictures: int = 20_000
    """JPEG files of 178 x 218 px."""
    image_size: int = 64
    """Height and width, px, that they are scaled to."""
    workers: int = 2
    """Threads that decode."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the result."""
    config = tyro.cli(StartConfig, prog="python -m benchmarks.data_start", args=arguments)
    with tempfile.TemporaryDirectory(prefix="dcgan-start-") as name:
        root = Path(name)
        folder, cache = root / "pictures", root / "cache"
        _write(folder, config.pictures)
        command = [
            sys.executable, "-c", PROGRAM, str(folder), str(config.image_size),
            str(config.workers), str(cache),
        ]  # fmt: skip
        result: dict[str, Any] = {"image_size": config.image_size, "workers": config.workers}
        for start in ("first", "second"):
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            result[start] = json.loads(done.stdout)
        result["cache_mb"] = sum(p.stat().st_size for p in cache.iterdir()) // 10**6
    print(json.dumps(result, indent=2))


def _write(folder: Path, count: int) -> None:
    folder.mkdir()
    write_pictures(folder, min(count, DISTINCT))
    contents = [path.read_bytes() for path in sorted(folder.iterdir())]
    for number in range(len(contents), count):
        (folder / f"{number:06}.jpg").write_bytes(contents[number % len(contents)])


if __name__ == "__main__":
    main()
