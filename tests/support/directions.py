"""Directions of an archive that is none."""

from typing import Any

from handler.settings import Direction, Directions


def facts(nz: int) -> dict[str, dict[str, Any]]:
    """As ``directions.json`` has them."""
    return {
        "glasses": {"step": [1.0, 0.1] + [0.0] * (nz - 2), "range": [-3, 3], "kind": "learned",
                    "success": 0.9},
        "copy": {"step": [0.0] * (nz - 1) + [0.7], "range": [-2.5, 2], "kind": "closed-form"},
        "far": {"step": [1e38] * nz, "range": [-1e10, 1e10], "kind": "closed-form"},
    }  # fmt: skip


def directions(nz: int, *names: str) -> Directions:
    """Those of ``facts``, or only some of them."""
    named = {
        name: Direction.model_validate(fact | {"range": tuple(fact["range"])})
        for name, fact in sorted(facts(nz).items())
    }
    return Directions({name: named[name] for name in names or named})
