"""The notation of the client's command line."""

import pytest

from client.__main__ import main
from client.arguments import ArgumentError, mix, seeds


@pytest.mark.parametrize(
    ("text", "expected"),
    [("7", [7]), ("0-3", [0, 1, 2, 3]), ("5, 1-2 ,5", [5, 1, 2, 5]), (f"{2**53 - 1}", [2**53 - 1])],
)
def test_seeds(text: str, expected: list[int]) -> None:
    assert seeds(text) == expected


@pytest.mark.parametrize("text", ["", "a", "1,", "-1", "3-1", "1-2-3", "0-1000000", "1.5", "1;2"])
def test_what_are_no_seeds(text: str) -> None:
    with pytest.raises(ArgumentError):
        seeds(text)


def test_mix() -> None:
    assert mix("1,2,3 - 4,5 + 0.5*6") == [
        {"weight": 1.0, "seeds": [1, 2, 3]},
        {"weight": -1.0, "seeds": [4, 5]},
        {"weight": 0.5, "seeds": [6]},
    ]
    assert mix("-2*7") == [{"weight": -2.0, "seeds": [7]}]


@pytest.mark.parametrize("text", ["", " ", "+", "1 -", "1 2", "x", "1 + * 2", "1 ++ 2", "1*"])
def test_what_is_no_mix(text: str) -> None:
    with pytest.raises(ArgumentError):
        mix(text)


@pytest.mark.parametrize(
    "arguments",
    [["--seeds", "3-1", "-o", "x.png"], ["--mix", "1 -", "-o", "x.png"], ["--seeds", "1"],
     ["--seeds", "1", "-o", "x.jpg"]],
)  # fmt: skip
def test_bad_usage_is_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert out == ""
