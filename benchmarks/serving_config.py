"""The settings of ``python -m benchmarks.serving``, and what is allowed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.closed_loop import Work
from benchmarks.peers import environments
from benchmarks.peers.catalogue import PEERS

Kind = Literal["image", "grid", "mix"]
_KINDS: dict[Kind, tuple[str, tuple[int, ...], tuple[int, ...]]] = {
    "image": ("1 image", (1,), (1, 8, 32, 64)),
    "grid": ("64-image grid", (64,), (2, 8)),
    "mix": ("mix of 1, 1, 1 and 64 images", (1, 1, 1, 64), (8,)),
}


@dataclass(frozen=True)
class ServingConfig:
    """Compare our server with the stock handler, other servers and the in-process ceiling."""

    rounds: int = 5
    """Turns each server gets for each kind of work."""
    seconds: float = 4.0
    """Length of a turn, s."""
    work: tuple[Kind, ...] = ("image", "grid", "mix")
    """What requests ask for: one image, a grid of 64, or a mix of 1, 1, 1 and 64."""
    connections: tuple[int, ...] = ()
    """How many at once; left out, 1, 8, 32 and 64 for image, 2 and 8 for grid, 8 for mix."""
    peers: tuple[
        Literal["none", "all", "installed", "fastapi", "litserve", "bentoml", "triton"], ...
    ] = ("none",)
    """Other servers: none, all (set up in .peers/ where missing, which needs the network),
    installed (those that are there), or their names."""
    precision: str | None = None
    """Serve a copy of our archive with this precision in its handler block, such as float32."""
    out: Path = Path("runs/serving.json")
    """Where everything measured goes."""
    update_docs: bool = False
    """Write docs/serving-PRECISION.json instead, and the tables for the precision that ours
    computed in, in docs/performance.md and README.md."""

    def check(self) -> None:
        """Raises:
        ValueError: a setting is out of its range.
        """
        if not 1 <= self.rounds <= 100:
            raise ValueError(f"rounds: seen {self.rounds}; allowed is 1 to 100")
        if not 0.1 <= self.seconds <= 600:
            raise ValueError(f"seconds: seen {self.seconds:g}; allowed is 0.1 to 600")
        if not self.work:
            raise ValueError("work: seen none; name one kind or more")
        if wrong := [count for count in self.connections if not 1 <= count <= 1000]:
            raise ValueError(f"connections: seen {wrong[0]}; allowed is 1 to 1000")
        if self.out.is_dir():
            raise ValueError(f"out: seen {self.out}, a folder; allowed is a file")

    def works(self) -> list[Work]:
        """Each kind of work at each number of connections."""
        return [
            Work(f"{title}, {count} connection{'s' * (count > 1)}", num_images, count)
            for title, num_images, usual in (_KINDS[kind] for kind in self.work)
            for count in self.connections or usual
        ]

    def named_peers(self) -> list[str]:
        """Names in ``PEERS`` that are asked for."""
        if "all" in self.peers:
            return list(PEERS)
        installed = "installed" in self.peers
        return [
            name
            for name in PEERS
            if name in self.peers or (installed and environments.is_installed(name))
        ]
