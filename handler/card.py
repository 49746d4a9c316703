"""The facts of the packed model: ``card.json`` at the root of the archive."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HEADER_SAFE = re.compile(r"[!-~]{1,80}")  # both texts are sent as reply headers


@dataclass(frozen=True)
class Card:
    """What the handler needs to know of the generator.

    Args:
        model: its name.
        version: its version, printable ASCII without blanks.
        weights_sha256: digest of the weights it was exported from, hexadecimal.
        nz: length of a latent.
        image_size: height and width, px.
        channels: 1 (grey) or 3 (RGB).
        facts: the whole file, for the describe reply.
    """

    model: str
    version: str
    weights_sha256: str
    nz: int
    image_size: int
    channels: int
    facts: Mapping[str, Any]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one image, px."""
        return self.image_size, self.image_size, self.channels

    @classmethod
    def read(cls, model_dir: Path) -> Card:
        """Read ``card.json``.

        Raises:
            RuntimeError: it is missing, is not JSON, or lacks a fact.
        """
        path = model_dir / "card.json"
        try:
            facts = json.loads(path.read_text("utf-8"))
            names = ("model", "version", "weights_sha256", "nz", "image_size", "channels")
            card = cls(**{name: facts[name] for name in names}, facts=facts)
            texts = (card.model, card.version, card.weights_sha256)
            if not all(isinstance(text, str) and _HEADER_SAFE.fullmatch(text) for text in texts):
                raise ValueError("model, version and weights_sha256 must be short ASCII words")
            if not (card.nz >= 1 and card.image_size >= 1 and card.channels in (1, 3)):
                raise ValueError("nz, image_size or channels is out of range")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RuntimeError(f"cannot use {path.name} of the archive: {error!r}") from error
        return card
