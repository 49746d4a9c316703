"""The client's command line: its notation, its files, and what it says when it cannot."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from client import ArgumentError
from client import __main__ as command
from client.__main__ import main, parse_mix, parse_seeds
from tests.support.scripted import OK, Scripted, document, png

Captured = pytest.CaptureFixture[str]

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "client"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("7", [7]), ("0-3", [0, 1, 2, 3]), ("5, 1-2 ,5", [5, 1, 2, 5]), (f"{2**53 - 1}", [2**53 - 1])],
)
def test_seeds(text: str, expected: list[int]) -> None:
    assert parse_seeds(text) == expected


@pytest.mark.parametrize("text", ["", "a", "1,", "-1", "3-1", "1-2-3", "0-1000000", "1.5", "1;2"])
def test_what_are_no_seeds(text: str) -> None:
    with pytest.raises(ArgumentError):
        parse_seeds(text)


def test_mix() -> None:
    assert parse_mix("1,2,3 - 4,5 + 0.5*6") == [
        {"weight": 1.0, "seeds": [1, 2, 3]},
        {"weight": -1.0, "seeds": [4, 5]},
        {"weight": 0.5, "seeds": [6]},
    ]
    assert parse_mix("-2*7") == [{"weight": -2.0, "seeds": [7]}]


@pytest.mark.parametrize("text", ["", " ", "+", "1 -", "1 2", "x", "1 + * 2", "1 ++ 2", "1*"])
def test_what_is_no_mix(text: str) -> None:
    with pytest.raises(ArgumentError):
        parse_mix(text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [("--seeds 3-1 -o x.png", "is empty; write 1-3"), ("--mix 1- -o x.png", "cannot be read"),
     ("--seeds 1", "where to? add -o"), ("--out=", "where to? add -o"),
     ("-o x.jpg", "ends in .jpg"),
     ("-o samples.v2", "ends in .v2; give grid.png (or .webp, .apng, .gif, .npy, .json, - for"),
     ("-o absent/x.png", "there is no folder absent"), ("-o file/", "file/ is a file"),
     ("-o x.png --url ftp://h", "the address 'ftp://h'"), ("-o x.png --timeout-s 0", "0 s"),
     ("-o x.png --ca-file absent", "the CA file absent"),
     ("-o x.png --noise absent.npy", "absent.npy cannot be read: No such file"),
     ("-o x.png --noise file", "file is no .npy file"),
     ("-o x.png --noise two.npz", "two.npz is an .npz file of a, b; save one"),
     ("--read absent.png", "--read absent.png cannot be read: No such file"),
     ("--read file -o x.png", "give it alone"), ("--num-images 2 --read file", "give it alone"),
     ("-o x.png --steps 3", "--steps, --method and --closed belong to a walk"),
     ("-o x.png --closed", "--closed belong to a walk"), ("-o x.gif --format webp", "end it in .w"),
     ("-o x.png --fps 3", "end -o in .webp"), ("-o x.npy --loop 0", "end -o in .webp"),
     ("-o x.png --edit glasses", "as in glasses=1.5"), ("-o x.png --edit a=inf", "a=inf cannot"),
     ("-o x.png --edit a=1 --edit a=2", "write each direction once"),
     ("-o x.png --again absent", "--again absent cannot be read: No such file"),
     ("--address --mix 1-2", "mix has no address"),
     ("-o x.png --method linear", "belong to a walk; add --walk"),
     ("-o x.png --noise complex.npy", "noise is complex128")],
)  # fmt: skip
def test_bad_usage_is_exit_2(
    arguments: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
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


def test_read_needs_no_server(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(png('{"request": {"seed": 7}}'))
    assert main(["--read", str(path)]) == 0
    assert json.loads(capsys.readouterr().out) == {"request": {"seed": 7}}
    path.write_bytes(png(None))
    assert main(["--read", str(path)]) == 1
    out, err = capsys.readouterr()
    assert "does not say what made it" in err
    assert out == ""


def test_nobody_listens(tmp_path: Path, capsys: Captured) -> None:
    assert main(["--url", "http://127.0.0.1:1", "-o", str(tmp_path / "cat.png")]) == 1
    assert "is the server up" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_stdout_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_save", lambda *_: None)
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "ascii"))
    assert main(["-o", "é\udce9.png"]) == 0
    assert shown.getvalue() == os.fsencode("é\udce9.png\n")


def test_an_interrupted_call(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = [*COMMAND, "--url", url, "-o", str(tmp_path / "cat.npy")]
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection:
            assert connection.recv(1)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (out, err) == (b"", b"")
    assert list(tmp_path.iterdir()) == []


def run(server: Scripted, out: str, *more: str) -> int:
    return main(["--url", f"127.0.0.1:{server.server_port}", "-o", out, *more])


@pytest.mark.parametrize("name", ["samples.v2/", "samples", "there.png", "new/deep/"])
def test_a_folder_gets_a_file_for_each_picture(server: Scripted, tmp_path: Path, name: str) -> None:
    (tmp_path / "there.png").mkdir()
    pngs = [png(None, colour) for colour in ("red", "red", "blue")]
    server.steps = [document(*pngs, seeds=[7, 7, 8])]
    assert run(server, f"{tmp_path}/{name}", "--seeds", "7,7,8") == 0
    found = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
    assert found == dict(zip(["000007.png", "000007-2.png", "000008.png"], pngs, strict=True))


def test_seeds_that_come_again_in_another_call(server: Scripted, tmp_path: Path) -> None:
    server.steps = [document(*[png(None)] * n, seeds=[7] * n) for n in (64, 1)]
    assert run(server, f"{tmp_path}/", "--seeds", ",".join(["7"] * 65)) == 0
    assert len(list(tmp_path.iterdir())) == 65


def test_no_call_asks_for_more_than_the_server_takes(server: Scripted, tmp_path: Path) -> None:
    few = [document(*[png(None)] * 2, seeds=[n, n + 1]) for n in (1, 3)]
    server.steps = [(413, {}, b"{}"), *few]
    assert run(server, f"{tmp_path}/", "--seeds", "1-4") == 0
    assert [body["seeds"] for _, body in server.seen] == [[1, 2, 3, 4], [1, 2], [3, 4]]
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("flags", [["--help"], ["--read", "docs/api/mix.png"]])
def test_stdout_that_takes_nothing(flags: list[str]) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "wb") as unread, Path("/dev/full").open("wb") as full:
        for stdout, said in ((unread, rb""), (full, rb"error: .*No space left on device\n")):
            done = subprocess.run(
                [*COMMAND, *flags], cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, check=False
            )
            assert done.returncode == 1
            assert re.fullmatch(said, done.stderr)


@pytest.mark.parametrize(
    ("out", "more", "form"),
    [("a.gif", "", "gif"), ("a.webp", "--fps 8 --loop 2", "webp"), ("a.apng", "", "apng"),
     ("a.png", "--format apng", "apng"), ("a.PNG", "", "png"), ("-", "--format webp", "webp")],
)  # fmt: skip
def test_the_server_is_asked_for_the_format_of_the_file(
    server: Scripted, tmp_path: Path, out: str, more: str, form: str
) -> None:
    server.steps = [OK]
    target = out if out == "-" else str(tmp_path / out)
    assert run(server, target, *f"--walk 1,7 --closed {more}".split()) == 0
    ((_, body),) = server.seen
    walk = {"between": [1, 7], "steps": 12, "method": "slerp", "closed": True}
    motion = {"type": form, "fps": 8, "loop": 2} if "--fps" in more else form
    assert body == {"walk": walk, "format": motion}


def test_edits_and_truncation_are_sent(server: Scripted, tmp_path: Path) -> None:
    server.steps = [OK]
    edits = ("--edit", "glasses=1.5", "--edit", "hat=-2", "--truncation", "0.7")
    assert run(server, str(tmp_path / "a.png"), "--seed", "3", *edits) == 0
    ((_, body),) = server.seen
    edit = {"glasses": 1.5, "hat": -2.0}
    assert body == {"seed": 3, "truncation": 0.7, "edit": edit, "format": "png"}


def test_a_recipe_is_drawn_again_with_changes(server: Scripted, tmp_path: Path) -> None:
    server.steps = [OK]
    (tmp_path / "old.png").write_bytes(png('{"request": {"seed": 7, "columns": 2}}'))
    again = ("--again", str(tmp_path / "old.png"), "--columns", "3")
    assert run(server, str(tmp_path / "new.webp"), *again) == 0
    assert server.seen[0][1] == {"seed": 7, "columns": 3, "format": "webp"}
    moving = '{"request": {"seed": 7, "format": {"type": "webp", "fps": 9, "loop": 1}}}'
    (tmp_path / "old.png").write_bytes(png(moving))
    for out, form in (
        ("new.webp", {"type": "webp", "fps": 9, "loop": 4}),
        ("new.gif", {"type": "gif", "loop": 4}),
    ):
        assert run(server, str(tmp_path / out), *again[:2], "--loop", "4") == 0
        assert server.seen[-1][1] == {"seed": 7, "format": form}


def test_the_address_needs_no_server(capsys: Captured) -> None:
    asked = "--seeds 1,5 --edit glasses=1.5 --address --url https://cats.example/here"
    assert main(asked.split()) == 0
    assert main(["--seed", "7", "--address", "-o", "x.webp"]) == 0
    assert capsys.readouterr().out.split() == [
        "https://cats.example/here/seeds/1,5.png?edit.glasses=1.5",
        "http://127.0.0.1:8080/seed/7.webp",
    ]


def test_a_picture_to_stdout(server: Scripted, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    server.steps = [OK]
    assert run(server, "-") == 0
    assert capfdbinary.readouterr().out == OK[2]


@pytest.mark.parametrize("mask", [0o077, 0o002])
def test_files_follow_the_umask(server: Scripted, tmp_path: Path, mask: int) -> None:
    server.steps = [OK]
    before = os.umask(mask)
    try:
        assert run(server, str(tmp_path / "cat.png")) == 0
    finally:
        os.umask(before)
    assert (tmp_path / "cat.png").stat().st_mode & 0o777 == 0o666 & ~mask
