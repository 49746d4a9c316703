"""A handler that does nothing: what TorchServe itself takes, and what no handler can be below.

One class and no imports of this project, for TorchServe loads the file alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


class BlankHandler:
    """``{"num_images": n}`` to the bytes of ``n.png`` in its archive."""

    def initialize(self, context: Any) -> None:
        """Read the replies."""
        folder = Path(context.system_properties["model_dir"])
        self._replies = {int(file.stem): file.read_bytes() for file in folder.glob("*.png")}

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:  # noqa: ARG002
        """One reply a request."""
        return [self._replies[row["body"].get("num_images", 1)] for row in data]
