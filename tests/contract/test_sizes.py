"""Every size of pictures, trained, exported, served: what the README asks for is to be had."""

from pathlib import Path

import pytest
from PIL import Image

from deploy.server import Ports
from export.__main__ import main as export
from tests.support import checkouts
from tests.support.checkouts import command, flags, said
from tests.support.documents import at, commands, run
from tests.support.generators import photos
from tests.support.tiny_runs import shorten
from training.__main__ import main as train

README = "README.md"
LONG = [(32, "L"), (32, "RGB"), (64, "L"), (64, "RGB"), (128, "L"), (128, "RGB"), (256, "L")]


# Of the largest a reply holds the fewest; one of 32 px and grey is served in test_versions.py.
@pytest.mark.parametrize(
    ("size", "mode"),
    [(256, "RGB"), *(pytest.param(*one, marks=pytest.mark.long) for one in LONG)],
)
def test_the_first_requests(
    size: int,
    mode: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shorten(monkeypatch)
    checkout = checkouts.checkout(tmp_path / "checkout")
    pictures = photos(tmp_path / "pictures", 8, mode=mode, size=size)
    assert train(["--data", str(pictures), "--out", str(tmp_path / "run"), "--cache", "None",
                  "--image-size", str(size), "--ngf", "8", "--ndf", "8", "--batch-size", "4",
                  "--max-steps", "3"]) == 0  # fmt: skip
    weights = tmp_path / "run" / "generator.safetensors"
    assert export(["--weights", str(weights), "--out", str(checkout / "model_store")]) == 0
    capsys.readouterr()
    ports = Ports.free()
    try:
        code, curl, told = said(command(checkout, "deploy.serve", "start", *flags(ports)))
        assert code == 0, told
        assert _pixels(checkout / "grid.png") >= 16 * size**2
        (checkout / "grid.png").unlink()
        run(f"cd {checkout} && {curl}")  # as it is printed
        assert _pixels(checkout / "grid.png") >= 16 * size**2
        for asked in (*commands(README, "curl"), *commands(README, "-m client")):
            here = at(ports, asked)
            for name in ("grid.png", "walk.gif", "mix.png"):
                here = here.replace(name, str(tmp_path / name))
            run(here)
        with Image.open(tmp_path / "walk.gif") as walk:
            assert (walk.size, walk.n_frames) == ((size, size), 12)
        with Image.open(tmp_path / "grid.png") as grid:
            assert grid.mode == mode
            assert min(grid.size) > 4 * size
        assert (tmp_path / "mix.png").is_file()
    finally:
        assert said(command(checkout, "deploy.serve", "stop"))[0] == 0


def _pixels(path: Path) -> int:
    with Image.open(path) as image:
        return image.width * image.height
