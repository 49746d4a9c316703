"""Which lines of a server's log say why it cannot serve."""

from __future__ import annotations

import json

from deploy.log_lines import telling


def line(level: str, message: str) -> str:
    return json.dumps({"level": level, "message": message})


def test_the_reason_is_told_whatever_is_repeated_around_it() -> None:
    noise = [line("error", 'Cannot run program "nvidia-smi"')] * 40
    reason = line("info", "Failed to load model dcgan, exception there is no card.json")
    assert telling("\n".join([*noise, reason, *noise])) == [
        "info: Failed to load model dcgan, exception there is no card.json",
        'error: Cannot run program "nvidia-smi"',
    ]


def test_the_last_lines_count_where_none_tells_of_a_failure() -> None:
    assert telling("a\n\nb\nc\n", count=2) == ["b", "c"]
