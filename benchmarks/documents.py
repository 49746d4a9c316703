"""The parts of Markdown files that benchmarks write.

Such a part stands between ``<!-- numbers: name -->`` and ``<!-- end -->``; the text around it is
by hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from training.files import atomic_path


def parts_of(document: str) -> list[str]:
    """Names of the parts that are filled."""
    return re.findall(r"<!-- numbers: ([a-z0-9-]+) -->", document)


def filled(document: str, made: Mapping[str, str]) -> str:
    """The document with new text in the parts that ``made`` names."""

    def replace(match: re.Match[str]) -> str:
        name = str(match[1])
        if name not in made:
            return match[0]
        return f"<!-- numbers: {name} -->\n{made[name].strip()}\n<!-- end -->"

    return re.sub(r"<!-- numbers: ([a-z0-9-]+) -->\n.*?<!-- end -->", replace, document, flags=re.S)


def fill(path: Path, made: Mapping[str, str]) -> None:
    """Write new text into parts of a file; it may have been edited since the work began."""
    now = path.read_text(encoding="utf-8")
    with atomic_path(path) as beside:
        beside.write_text(filled(now, made), encoding="utf-8")
