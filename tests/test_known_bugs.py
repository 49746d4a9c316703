"""Every test that docs/known-bugs.md names is there, and no row is without an answer."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split("|")]
    for line in (ROOT / "docs" / "known-bugs.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"\| \d+ \|", line)
]


def test_rows_are_numbered_without_a_gap() -> None:
    assert [int(row[0]) for row in ROWS] == list(range(1, 35))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_what_holds_a_row_exists(row: list[str]) -> None:
    held_by = row[3]
    assert "`" in held_by or held_by == "decision" or held_by.startswith("the same")
    source = ""
    for name in re.findall(r"`([^`]+)`", held_by):
        path, _, rest = name.rpartition(".py")
        if path:
            source = (ROOT / "tests" / f"{path}.py").read_text(encoding="utf-8")
        for part in filter(None, rest.split("::")):
            assert re.search(rf"(def|class) {part}\b", source), name
