"""The client and its command line against a live server."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import client
from client import Client
from client.__main__ import main
from deploy.server import HOST, Server
from tests.support.scripted import png


@pytest.fixture
def url(server: Server) -> str:
    return f"http://{HOST}:{server.ports.inference}"


def test_the_three_forms_agree(url: str) -> None:
    with Client(url) as cats:
        array = cats.array(seed=3, num_images=4)
        images = cats.images(seed=3, num_images=4)
        picture = cats.grid(seed=3, num_images=4, columns=4, padding=0)
        again = cats.grid(**picture.made_by["request"])
    assert array.shape == (4, 64, 64, 3)
    assert np.array_equal(array, np.stack([np.asarray(image) for image in images]))
    assert np.array_equal(np.concatenate(list(array), axis=1), np.asarray(picture.image))
    assert picture.seed == 3
    assert again.file == picture.file


def test_a_version_of_the_model(url: str) -> None:
    with Client(url) as cats:
        version = cats.grid().headers["X-Model-Version"]
    with Client(url, f"dcgan/{version}") as cats:
        assert cats.grid(seed=3).seed == 3
    with Client(url, "dcgan/0.0") as cats, pytest.raises(client.Problem, match="dcgan") as caught:
        cats.grid()
    assert caught.value.status == 404


def test_the_command_line(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--url", url, "-o"]
    assert main(["--seeds", "0-8", *at, str(tmp_path / "grid.png")]) == 0
    assert Image.open(tmp_path / "grid.png").size == (200, 200)
    assert main(["--walk", "1,7,42", "--steps", "6", *at, str(tmp_path / "walk.gif")]) == 0
    assert getattr(Image.open(tmp_path / "walk.gif"), "n_frames", 1) == 6
    assert main(["--seeds", "0-299", *at, str(tmp_path / "many.npy")]) == 0
    assert np.load(tmp_path / "many.npy").shape == (300, 64, 64, 3)
    assert main(["--seeds", "5-6", *at, str(tmp_path / "folder")]) == 0
    assert main(["--seed", "7", "--num-images", "2", *at, str(tmp_path / "folder")]) == 0
    names = sorted(path.name for path in (tmp_path / "folder").iterdir())
    assert names == ["000005.png", "000006.png", "000007.png", "000008.png"]
    capsys.readouterr()
    assert main(["--read", str(tmp_path / "folder" / "000008.png")]) == 0
    assert json.loads(capsys.readouterr().out)["request"]["seed"] == 8
    assert main(["--mix", "1,2 - 3 + 0.5*4", *at, str(tmp_path / "mix.json")]) == 0
    assert json.loads((tmp_path / "mix.json").read_text())["source"] == "mix"
    np.save(tmp_path / "noise.npy", np.zeros((2, 100), np.float32))
    assert main(["--noise", str(tmp_path / "noise.npy"), *at, str(tmp_path / "noise.png")]) == 0
    capsys.readouterr()
    assert main(["--read", str(tmp_path / "grid.png")]) == 0
    made_by = json.loads(capsys.readouterr().out)
    assert (made_by["request"]["seed"], made_by["request"]["num_images"]) == (0, 9)


def test_again_tells_of_other_directions(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Client(url) as cats:
        picture = cats.grid(seed=3, edit={"glasses": 1})
        plain = cats.grid(seed=3)
    digest = picture.made_by["directions_sha256"]
    assert picture.headers["X-Directions-SHA256"] == digest
    assert "directions_sha256" not in plain.made_by
    old = tmp_path / "old.png"
    for out in ("a.png", "a.json", "a.npy", "folder/"):
        again = ["--again", str(old), "--url", url, "-o", f"{tmp_path}/{out}"]
        old.write_bytes(picture.file)
        assert main(again) == 0
        assert caplog.messages == []
        made_by = {**picture.made_by, "directions_sha256": "0" * 64}
        old.write_bytes(png(json.dumps(made_by)))
        assert main(again) == 0
        assert "other directions" in caplog.text
        caplog.clear()
    assert (tmp_path / "a.png").read_bytes() == picture.file
