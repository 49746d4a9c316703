"""``python -m client``: pictures from a server on the command line.

Exit codes: 0 done, 1 failed, 2 bad usage, 130 interrupted. The name of the file (or the picture of
``-o -``, or what --read found, as JSON) goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

try:
    import numpy as np
    import numpy.typing as npt
    import tyro
    from tqdm import tqdm

    from client.files import whole, write
except ImportError as error:
    sys.exit(f"error: {error}; the command line needs more than Client: dcgan-client[cli]")

from client.errors import ArgumentError, ClientError, TooLarge
from client.session import Client, read

CHUNK = 64  # images a call when each image goes to a place of its own
WALK_STEPS = 12
FILES = {".png": "png", ".webp": "webp", ".apng": "apng", ".gif": "gif"}
SUFFIXES = (*FILES, ".npy", ".json")
NO_ANIMATION = "--fps and --loop belong to an animation; end -o in .webp, .apng or .gif"
STDOUT, FOLDER = "-", "/"
MAX_SEEDS = 1_000_000  # a mistyped range must not fill the memory
T = TypeVar("T")
_ITEM = re.compile(r"(\d+)(?:-(\d+))?")
# In a mix - is always minus: it has no ranges.
_TERM = re.compile(r"\s*([+-])?\s*(?:(\d+(?:\.\d+)?)\s*\*\s*)?(\d[\d,\s]*?)\s*(?=[+-]|$)")


@dataclass(frozen=True)
class ClientConfig:
    """Ask a server for pictures: --seeds, --seed, --walk, --mix, --noise or --again, or nothing for
    a random one. Or --read a picture that a server made."""

    out: Annotated[str | None, tyro.conf.arg(aliases=["-o"])] = None
    """.png (a grid; of a walk too), .webp, .apng or .gif (one frame an image), .npy, .json, - (a
    grid to stdout), or a folder (ends in /) for one PNG an image, named by its seed or its place.
    """
    seeds: str | None = None
    """Seeds and ranges: 0-63 or 1,7,42."""
    seed: int | None = None
    """First of --num-images consecutive seeds."""
    num_images: int | None = None
    """With --seed or alone."""
    walk: str | None = None
    """Seeds to walk between: 1,7,42."""
    steps: int | None = None
    """Images of the walk; 12 if left out."""
    method: Literal["slerp", "linear"] | None = None
    """How the walk goes; slerp if left out."""
    closed: bool = False
    """The walk ends where it began, for an animation without an end."""
    mix: str | None = None
    """Latent arithmetic on seeds: "1,2,3 - 4,5,6 + 0.5*7,8,9"."""
    noise: Path | None = None
    """.npy file of latents, float (n, nz) or (n, nz, 1, 1)."""
    again: Path | None = None
    """A picture whose recipe is drawn anew; what is given beside it goes before the recipe."""
    edit: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A step along a direction of the archive, NAME=STRENGTH: glasses=1.5. Once for each."""
    truncation: float | None = None
    """0 to 1: the nearer to 0, the more like the mean picture."""
    columns: int | None = None
    """Columns of the grid."""
    padding: int | None = None
    """Between the tiles, px."""
    background: str | None = None
    """Behind the tiles, #rrggbb."""
    fps: float | None = None
    """Frames a second of an animation."""
    loop: int | None = None
    """How often an animation plays; 0 is for ever."""
    format: Literal["png", "webp", "apng", "gif"] | None = None
    """Of what -o does not name: for - and --address, and apng in a .png."""
    address: bool = False
    """Print the address of the picture at the proxy before the server, and ask for nothing."""
    read: Path | None = None
    """Print what made this picture; needs no server, goes alone."""
    url: str = "http://127.0.0.1:8080"
    """Inference port, or the proxy before it: host:port, or with http:// or https://."""
    ca_file: Path | None = None
    """PEM certificate of who signed the server's, or its own if it is self-signed."""
    model: str = "dcgan"
    """Name of the model."""
    api_key: str | None = None
    """For a proxy that wants one; DCGAN_API_KEY in the environment is read too."""
    timeout_s: float = 60.0
    """Longest wait for an answer, s."""


def main(arguments_: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        try:
            return _run(arguments_)
        finally:  # --help too
            sys.stdout.flush()
    except OSError as error:  # of stdout, which is not tried again at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # then who reads it has seen enough
            print(f"error: stdout: {error.strerror}", file=sys.stderr)
        return 1


def _run(arguments_: Sequence[str] | None) -> int:
    config = tyro.cli(ClientConfig, prog="python -m client", args=arguments_)
    try:
        if config.read is not None:
            if config != ClientConfig(read=config.read):
                raise ArgumentError("--read asks no server and writes no file; give it alone")
            print(json.dumps(read(_bytes_of("--read", config.read)), indent=2))
            return 0
        made_by = {} if config.again is None else read(_bytes_of("--again", config.again))
        fields = {**made_by.get("request", {}), **_fields(config)}
        if config.address:
            fields["format"] = _format(config, Path(config.out or "").suffix.lower(), fields)
            print(Client(config.url, config.model).address(**fields))
            return 0
        kind = _kind(config.out)
        if kind in FILES or kind == STDOUT:
            fields["format"] = _format(config, kind, fields)
        elif config.fps is not None or config.loop is not None:
            raise ArgumentError(NO_ANIMATION)
        client = Client(
            config.url,
            config.model,
            read_timeout_s=config.timeout_s,
            api_key=config.api_key or os.environ.get("DCGAN_API_KEY"),
            ca_file=config.ca_file,
            made_by=made_by,
        )
        with client:
            _save(client, fields, str(config.out), kind)
    except ArgumentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        raise
    except (ClientError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if kind != STDOUT:  # a name may be any bytes
        sys.stdout.buffer.write(os.fsencode(Path(str(config.out))) + b"\n")
    return 0


def _bytes_of(flag: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArgumentError(f"{flag} {path} cannot be read: {error.strerror}") from error


def _fields(config: ClientConfig) -> dict[str, Any]:
    """The request, without format."""
    plain = ("seed", "num_images", "truncation", "columns", "padding", "background")
    fields: dict[str, Any] = {name: getattr(config, name) for name in plain}
    fields["edit"] = parse_edit(config.edit) or None
    if config.seeds is not None:
        fields["seeds"] = parse_seeds(config.seeds)
    if config.walk is not None:
        keys = parse_seeds(config.walk)
        method = config.method or "slerp"
        steps = WALK_STEPS if config.steps is None else config.steps
        fields["walk"] = {"between": keys, "steps": steps, "method": method}
        if config.closed:
            fields["walk"]["closed"] = True
    elif config.steps is not None or config.method is not None or config.closed:
        raise ArgumentError("--steps, --method and --closed belong to a walk; add --walk 1,7,42")
    if config.mix is not None:
        fields["mix"] = parse_mix(config.mix)
    if config.noise is not None:
        fields["noise"] = _noise(config.noise)
    return {name: value for name, value in fields.items() if value is not None}


def parse_edit(texts: Sequence[str]) -> dict[str, float]:
    """``["glasses=1.5", "hat=-2"]`` -> the field ``edit``; ArgumentError for another notation, or
    a name that comes twice."""
    found: dict[str, float] = {}
    for text in texts:
        name, _, strength = text.partition("=")
        try:
            value = float(strength)
        except ValueError:
            value = math.nan
        if not name or not math.isfinite(value) or name in found:
            raise ArgumentError(
                f"--edit {text} cannot be read; write each direction once, as in glasses=1.5"
            )
        found[name] = value
    return found


def parse_seeds(text: str) -> list[int]:
    """``"0-3,7"`` -> ``[0, 1, 2, 3, 7]``; ArgumentError for another notation, an empty range, or
    more than ``MAX_SEEDS``."""
    found: list[int] = []
    for part in text.split(","):
        match = _ITEM.fullmatch(part.strip())
        if match is None:
            raise ArgumentError(f"{part!r} is neither a seed nor a range; write 0-63 or 1,7,42")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ArgumentError(f"the range {part.strip()} is empty; write {last}-{first}")
        if len(found) + last - first + 1 > MAX_SEEDS:
            raise ArgumentError(f"{text!r} is more than {MAX_SEEDS} seeds; ask in parts")
        found.extend(range(first, last + 1))
    return found


def parse_mix(text: str) -> list[dict[str, Any]]:
    """``"1,2 - 0.5*3,4"`` -> the field ``mix``, two terms of weight 1 and -0.5; ArgumentError for
    another notation."""
    terms: list[dict[str, Any]] = []
    place = 0
    while place < len(text.rstrip()):
        match = _TERM.match(text, place)
        if match is None or (terms and match[1] is None):
            raise ArgumentError(
                f"{text!r} cannot be read at {text[place : place + 20]!r}; write terms of seeds as "
                'in "1,2,3 - 4,5,6 + 0.5*7,8,9"'
            )
        weight = float(match[2] or 1) * (-1 if match[1] == "-" else 1)
        terms.append({"weight": weight, "seeds": parse_seeds(match[3])})
        place = match.end()
    if not terms:
        raise ArgumentError('an empty mix; write terms of seeds as in "1,2,3 - 4,5,6"')
    return terms


def _noise(path: Path) -> npt.NDArray[Any]:
    try:
        found = np.load(path, allow_pickle=False)
    except OSError as error:
        raise ArgumentError(f"--noise {path} cannot be read: {error.strerror}") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ArgumentError(f"--noise {path} is no .npy file of numbers") from error
    if not isinstance(found, np.ndarray):
        raise ArgumentError(
            f"--noise {path} is an .npz file of {', '.join(found.files)}; save one array of it "
            "with numpy.save"
        )
    return found


def _kind(out: str | None) -> str:
    """What ``out`` is: one of ``SUFFIXES``, ``STDOUT`` or ``FOLDER``.

    Raises:
        ArgumentError: it is none, or cannot be written to.
    """
    forms = "grid.png (or .webp, .apng, .gif, .npy, .json, - for stdout, or a folder/)"
    if not out:
        raise ArgumentError(f"where to? add -o {forms}")
    if out == STDOUT:
        if sys.stdout.isatty():
            raise ArgumentError(
                "-o - would write a picture to the terminal; send it on, as > a.png"
            )
        return STDOUT
    path = Path(out)
    if out.endswith("/") or path.is_dir() or not path.suffix:
        if path.exists() and not path.is_dir():
            raise ArgumentError(f"-o {out} is a file; give a folder, or one of {forms}")
        return FOLDER
    if path.suffix.lower() not in SUFFIXES:
        raise ArgumentError(f"-o {out} ends in {path.suffix}; give {forms}, with the / at its end")
    if not path.parent.is_dir():
        raise ArgumentError(f"-o {out}: there is no folder {path.parent}; make it first")
    return path.suffix.lower()


def _format(config: ClientConfig, kind: str, fields: dict[str, Any]) -> str | dict[str, Any]:
    """The format to ask for: that of the file's name, unless --format says more; how it plays by
    --fps and --loop, or as in a recipe of that format."""
    named = FILES.get(kind, config.format or "png")
    form = config.format or named
    if form != named and (named, form) != ("png", "apng"):
        raise ArgumentError(f"-o {config.out} is no {form}; end it in .{form}")
    motion = {name: getattr(config, name) for name in ("fps", "loop")}
    motion = {name: value for name, value in motion.items() if value is not None}
    if form == "png" and motion:
        raise ArgumentError(NO_ANIMATION)
    told = fields.get("format")
    if isinstance(told, dict) and told.get("type") == form:
        motion = {**told, **motion}
    return {**motion, "type": form} if motion else form


def _save(client: Client, fields: dict[str, Any], out: str, kind: str) -> None:
    path = Path(out)
    if kind == STDOUT:
        sys.stdout.buffer.write(client.grid(**fields).file)
        sys.stdout.buffer.flush()
    elif kind in FILES:
        write(path, client.grid(**fields).file)
    elif kind == ".json":
        write(path, json.dumps(client.document(**fields)).encode())
    elif kind == ".npy":
        arrays = list(_replies(client.array, fields))
        with whole(path) as file:
            np.save(file, np.concatenate(arrays))
    else:
        path.mkdir(parents=True, exist_ok=True)
        drawn: Counter[int] = Counter()
        for document in _replies(client.document, fields):
            # The bytes as sent: each of them says what made it, and --read can tell.
            pngs = [base64.b64decode(text) for text in document["images"]]
            for name, png in zip(document["seeds"] or range(len(pngs)), pngs, strict=True):
                drawn[name] += 1
                again = f"-{drawn[name]}" if drawn[name] > 1 else ""
                write(path / f"{name:06d}{again}.png", png)


def _replies(ask: Callable[..., T], fields: dict[str, Any]) -> Iterator[T]:
    """The replies: a long list of seeds takes several calls, of as many as the server takes."""
    seeds, chunk = fields.get("seeds"), CHUNK
    if seeds is None:
        yield ask(**fields)
        return
    with tqdm(total=len(seeds), unit="image", disable=len(seeds) <= CHUNK) as bar:
        place = 0
        while place < len(seeds):
            part = seeds[place : place + chunk]
            try:
                reply = ask(**{**fields, "seeds": part})
            except TooLarge:
                if len(part) == 1:
                    raise
                chunk = len(part) // 2
                continue
            yield reply
            place += len(part)
            bar.update(len(part))


if __name__ == "__main__":
    sys.exit(main())
