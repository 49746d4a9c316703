"""Lines of a server's log for people: those that say why it cannot serve."""

from __future__ import annotations

import json
import re

_TELLING = re.compile(r"Error\b|error:|Exception|warn:|Failed to load model")
_WIDTH = 300


def telling(text: str, count: int = 8) -> list[str]:
    """The last lines that tell of a failure, or the last ones where none does, 300 characters
    each; JSON lines as ``level: message``. What is said again and again is told once."""
    lines = [_readable(line) for line in text.splitlines() if line.strip()]
    chosen = [line for line in lines if _TELLING.search(line)] or lines
    distinct = list(dict.fromkeys(line[:_WIDTH] for line in reversed(chosen)))
    return distinct[:count][::-1]


def _readable(line: str) -> str:
    try:
        entry = json.loads(line)
        return f"{entry['level']}: {entry['message']} {entry.get('error', '')}".strip()
    except (ValueError, KeyError, TypeError, AttributeError):
        return line
