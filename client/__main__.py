"""``python -m client``: pictures from a server on the command line.

Exit codes: 0 done, 1 failed, 2 bad usage, 130 interrupted. The name of the file (or what --read
found, as JSON) goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from tqdm import tqdm

from client import arguments
from client.arguments import ArgumentError
from client.errors import ClientError
from client.session import Client, read

CHUNK = 64  # images a call when each image goes to a place of its own
GIF_FRAME_MS = 120
SUFFIXES = (".png", ".gif", ".npy", ".json")


@dataclass(frozen=True)
class ClientConfig:
    """Ask a server for pictures: --seeds, --seed, --walk, --mix or --noise, or nothing for a
    random one. Or --read a picture that a server made."""

    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """.png (a grid; of a walk too), .gif (one frame an image), .npy, .json, or a folder (ends
    in /) for one PNG an image, named by its seed or its place."""
    seeds: str | None = None
    """Seeds and ranges: 0-63 or 1,7,42."""
    seed: int | None = None
    """First of --num-images consecutive seeds."""
    num_images: int | None = None
    """With --seed or alone."""
    walk: str | None = None
    """Seeds to walk between: 1,7,42."""
    steps: int = 12
    """Images of the walk."""
    method: Literal["slerp", "linear"] = "slerp"
    """How the walk goes."""
    mix: str | None = None
    """Latent arithmetic on seeds: "1,2,3 - 4,5,6 + 0.5*7,8,9"."""
    noise: Path | None = None
    """.npy file of latents, float (n, nz)."""
    columns: int | None = None
    """Columns of the grid."""
    padding: int | None = None
    """Between the tiles, px."""
    background: str | None = None
    """Behind the tiles, #rrggbb."""
    read: Path | None = None
    """Print what made this PNG; needs no server."""
    url: str = "http://127.0.0.1:8080"
    """Inference port, or the proxy before it."""
    model: str = "dcgan"
    """Name of the model."""
    api_key: str | None = None
    """For a proxy that wants one; DCGAN_API_KEY in the environment is read too."""
    timeout_s: float = 60.0
    """Longest wait for an answer, s."""


def main(arguments_: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    config = tyro.cli(ClientConfig, prog="python -m client", args=arguments_)
    try:
        if config.read is not None:
            print(json.dumps(read(config.read.read_bytes()), indent=2))
            return 0
        fields, out = _fields(config), _out(config)
        key = config.api_key or os.environ.get("DCGAN_API_KEY")
        with Client(
            config.url, config.model, read_timeout_s=config.timeout_s, api_key=key
        ) as client:
            _save(client, fields, out)
    except ArgumentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (ClientError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    sys.stdout.buffer.write(os.fsencode(out) + b"\n")  # a name may be any bytes
    return 0


def _fields(config: ClientConfig) -> dict[str, Any]:
    """The request, without format."""
    fields: dict[str, Any] = {
        "seed": config.seed, "num_images": config.num_images, "columns": config.columns,
        "padding": config.padding, "background": config.background,
    }  # fmt: skip
    if config.seeds is not None:
        fields["seeds"] = arguments.seeds(config.seeds)
    if config.walk is not None:
        keys = arguments.seeds(config.walk)
        fields["walk"] = {"between": keys, "steps": config.steps, "method": config.method}
    if config.mix is not None:
        fields["mix"] = arguments.mix(config.mix)
    if config.noise is not None:
        fields["noise"] = np.load(config.noise, allow_pickle=False)
    return {name: value for name, value in fields.items() if value is not None}


def _out(config: ClientConfig) -> Path:
    if config.out is None:
        raise ArgumentError("where to? add -o grid.png (or .gif, .npy, .json, or a folder/)")
    if config.out.suffix.lower() not in (*SUFFIXES, ""):
        raise ArgumentError(f"-o {config.out} ends in none of {', '.join(SUFFIXES)}, nor is it a "
                            "folder")  # fmt: skip
    return config.out


def _save(client: Client, fields: dict[str, Any], out: Path) -> None:
    suffix = out.suffix.lower()
    if suffix == ".png":
        _write(out, client.grid(**fields).png)
    elif suffix == ".json":
        _write(out, client.post({**fields, "format": "json"}).content)
    elif suffix == ".npy":
        with _beside(out) as beside, beside.open("wb") as file:
            np.save(file, np.concatenate([client.array(**part) for part in _parts(fields)]))
    elif suffix == ".gif":
        frames = [image for part in _parts(fields) for image in client.images(**part)]
        with _beside(out) as beside:
            frames[0].save(
                beside,
                "GIF",
                save_all=True,
                append_images=frames[1:],
                duration=GIF_FRAME_MS,
                loop=0,
            )
    else:
        out.mkdir(parents=True, exist_ok=True)
        for part in _parts(fields):
            document = client.post({**part, "format": "json"}).json()
            # The bytes as sent: each of them says what made it, and --read can tell.
            pngs = [base64.b64decode(text) for text in document["images"]]
            names = document["seeds"] or range(len(pngs))
            for name, png in zip(names, pngs, strict=True):
                _write(out / f"{name:06d}.png", png)


def _parts(fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The calls to make: a long list of seeds takes several."""
    seeds = fields.get("seeds", [])
    if len(seeds) <= CHUNK:
        yield fields
        return
    with tqdm(total=len(seeds), unit="image") as bar:
        for start in range(0, len(seeds), CHUNK):
            part = seeds[start : start + CHUNK]
            yield {**fields, "seeds": part}
            bar.update(len(part))


def _write(path: Path, data: bytes) -> None:
    with _beside(path) as beside:
        beside.write_bytes(data)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A file to write, renamed to ``path`` when all went well: nobody sees half of it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


if __name__ == "__main__":
    sys.exit(main())
