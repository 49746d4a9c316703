"""The notation of the client's command line."""

from pathlib import Path

import numpy as np
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
    ("arguments", "words"),
    [("--seeds 3-1 -o x.png", "is empty; write 1-3"), ("--mix 1- -o x.png", "cannot be read"),
     ("--seeds 1", "where to? add -o"), ("-o x.jpg", "ends in .jpg"),
     ("-o samples.v2", "ends in .v2; give grid.png (or .gif, .npy, .json, - for stdout"),
     ("-o absent/x.png", "there is no folder absent"), ("-o file/", "file/ is a file"),
     ("-o x.png --url ftp://h", "the address 'ftp://h'"), ("-o x.png --timeout-s 0", "0 s"),
     ("-o x.png --ca-file absent", "the CA file absent"),
     ("-o x.png --noise absent.npy", "absent.npy cannot be read: No such file"),
     ("-o x.png --noise file", "file is no .npy file"),
     ("-o x.png --noise two.npz", "two.npz is an .npz file of a, b; save one"),
     ("-o x.png --noise complex.npy", "noise is complex128")],
)  # fmt: skip
def test_bad_usage_is_exit_2(
    arguments: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("hello")
    np.savez("two.npz", a=np.ones(2), b=np.ones(2))
    np.save("complex.npy", np.ones((1, 2), complex))
    assert main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert words in err
    assert out == ""
    assert not Path("x.png").exists()
