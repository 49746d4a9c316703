"""Which Python and which libraries a worker runs on."""

from __future__ import annotations

import platform
from importlib import metadata

_LIBRARIES = ("torch", "onnxruntime-gpu", "onnxruntime", "numpy", "pydantic", "isal")


def versions() -> dict[str, str]:
    """Name -> version, of those that are installed."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
