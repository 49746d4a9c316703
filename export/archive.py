"""``dcgan.mar``: handler package, model files and settings in one archive, byte for byte the
same from the same inputs.

torch-model-archiver lays the files out and writes the manifest; the zip is written here,
because the archiver's own holds times and the order of the file system.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from handler.settings import DIRECTIONS_FILE, Card, Directions
from training.files import atomic_path
from training.weights import WeightsInfo

MODEL_NAME = "dcgan"
PACKAGE = Path(__file__).resolve().parent.parent / "handler"
MODEL_CONFIG = "model-config.yaml"
ENTRY = PACKAGE / "dcgan_handler.py"
_DIRECTIONS_FORMAT = "dcgan-directions-1"
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold


class ArchiveError(RuntimeError):
    """torch-model-archiver refused its inputs; the message is what it said."""


class OtherWeightsError(ValueError):
    """The directions are of other weights."""


def make_card(weights: Path, info: WeightsInfo, version: str, onnx: dict[str, int]) -> Card:
    """The facts of one archive, for the handler's replies and for people: besides those that the
    handler needs, what the weights' metadata says of their training, and the opset and IR version
    that a runtime of ONNX must know. None is measured, so that every machine writes the same.
    """
    facts = {name: getattr(info, name) for name in ("nz", "ngf", "image_size", "channels")}
    facts |= {"weights_sha256": _sha256(weights), "provenance": info.provenance}
    facts |= {"model": MODEL_NAME, "version": version, "onnx": onnx}
    return Card.model_validate(facts)


def read_directions(path: Path, weights: Path, nz: int) -> bytes:
    """A ``directions.safetensors`` as the text of the archive's directions.json.

    The file has one float32 (nz,) tensor a name, and as metadata ``format``
    (``dcgan-directions-1``), ``weights_sha256`` (of the weights' file) and ``directions``, JSON of
    name -> what ``handler.settings.Direction`` says beside the step.

    Raises:
        OtherWeightsError: they were found for other weights than these.
        FileNotFoundError: there is no such file.
        ValueError: it is something else, or holds what the handler would refuse.
    """
    try:
        with safe_open(path, framework="np") as opened:
            metadata = opened.metadata() or {}
            steps = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if metadata.get("format") != _DIRECTIONS_FORMAT:
            raise ValueError(f"its format is not {_DIRECTIONS_FORMAT}")
        facts = json.loads(metadata["directions"])
        if facts.keys() != steps.keys() or any(s.dtype != np.float32 for s in steps.values()):
            raise ValueError("its tensors are not one float32 tensor a direction")
        named = {name: {**facts[name], "step": step.tolist()} for name, step in steps.items()}
        text = json.dumps(named, sort_keys=True).encode("ascii")
        Directions.parse(text, nz)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} does not exist; give --directions none or a file"
        ) from None
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no directions.safetensors of these: {error}") from error
    if metadata.get("weights_sha256") != _sha256(weights):
        raise OtherWeightsError(
            f"{path} holds directions of other weights than {weights}; "
            "make them anew, or give --directions none"
        )
    return text


def weights_of(archive: Path) -> str | None:
    """The digest of the weights in an archive; None where there is none, or none of these."""
    try:
        with zipfile.ZipFile(archive) as packed:
            return str(json.loads(packed.read("card.json"))["weights_sha256"])
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError):
        return None


def build_archive(
    path: Path,
    torchscript: Path,
    onnx: Path,
    card: Card,
    backend: str | None = None,
    workers: int | None = None,
    directions: bytes = b"",
) -> str:
    """Write the archive atomically, and ``<path>.sha256`` beside it.

    Args:
        path: ``.../dcgan.mar``.
        torchscript, onnx: the exported model files.
        card: goes into the archive as ``card.json``.
        backend, workers: written into the archive's model-config.yaml; None leaves what is there.
        directions: as of ``read_directions``; none goes into the archive when empty.

    Returns:
        the archive's SHA-256, hexadecimal.

    Raises:
        ArchiveError: the archiver failed.
        OSError: something could not be read or written; an earlier archive is unchanged.
    """
    # Everything happens below a private folder: the archiver deletes $TMPDIR/<model name>
    # before and after its work, whoever that folder belongs to.
    with tempfile.TemporaryDirectory(prefix="dcgan-export-") as private:
        # The name holds the entry's digest: a module of that name elsewhere on PYTHONPATH, which
        # TorchServe searches before the archive, can only be the same file.
        entry = Path(private) / f"{ENTRY.stem}_{_sha256(ENTRY)[:12]}.py"
        shutil.copy(ENTRY, entry)
        extra = _stage(Path(private) / "extra", torchscript, onnx, card, directions)
        config = Path(private) / MODEL_CONFIG
        config.write_text(_configured(backend, workers), encoding="utf-8")
        laid_out = _run_archiver(Path(private), entry, extra, config, card.version)
        _normalise_manifest(laid_out / "MAR-INF" / "MANIFEST.json")
        zipped = _zipped(laid_out)
    digest = hashlib.sha256(zipped).hexdigest()
    with atomic_path(path) as beside:
        beside.write_bytes(zipped)
    with atomic_path(path.with_name(path.name + ".sha256")) as beside:
        beside.write_text(f"{digest}  {path.name}\n", encoding="utf-8")
    return digest


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _stage(extra: Path, torchscript: Path, onnx: Path, card: Card, directions: bytes) -> Path:
    """A folder whose content becomes the archive's root, so that handler/ stays a folder."""
    extra.mkdir()
    shutil.copytree(
        PACKAGE,
        extra / PACKAGE.name,
        ignore=shutil.ignore_patterns("__pycache__", ".*", MODEL_CONFIG, "openapi.py"),
    )
    shutil.copy(torchscript, extra / "generator.pt")
    shutil.copy(onnx, extra / "generator.onnx")
    facts = json.dumps(card.model_dump(), indent=2, sort_keys=True)
    (extra / "card.json").write_text(facts + "\n", encoding="utf-8")
    if directions:
        (extra / DIRECTIONS_FILE).write_bytes(directions + b"\n")
    return extra


def _configured(backend: str | None, workers: int | None) -> str:
    """The text of model-config.yaml with what was chosen; its comments stay."""
    text = (PACKAGE / MODEL_CONFIG).read_text(encoding="utf-8")
    for key, value in (("  backend", backend), ("minWorkers", workers), ("maxWorkers", workers)):
        if value is not None:
            text, count = re.subn(rf"(?m)^({key}: +)\w+", rf"\g<1>{value}", text)
            if count != 1:
                raise ArchiveError(f"{MODEL_CONFIG} has no line for {key.strip()}")
    return text


def _run_archiver(private: Path, entry: Path, extra: Path, config: Path, version: str) -> Path:
    out = private / "out"
    out.mkdir()
    archiver = "from model_archiver.model_packaging import generate_model_archive as main; main()"
    options = {
        "--model-name": MODEL_NAME,
        "--version": version,
        "--handler": entry,
        "--extra-files": extra,
        "--config-file": config,
        "--archive-format": "no-archive",
        "--export-path": out,
    }
    command = [sys.executable, "-c", archiver]
    command += [str(word) for option in options.items() for word in option]
    environment = {**os.environ, "TMPDIR": str(private)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    laid_out = out / MODEL_NAME
    if done.returncode or not (laid_out / "MAR-INF" / "MANIFEST.json").is_file():
        said = (done.stderr or done.stdout).strip()
        raise ArchiveError(f"torch-model-archiver failed ({done.returncode}): {said}")
    return laid_out


def _normalise_manifest(path: Path) -> None:
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["createdOn"] = "01/01/1980 00:00:00"
    path.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _zipped(folder: Path) -> bytes:
    """Stored, not deflated: weights hardly shrink, and no zlib version can change the bytes."""
    with zipfile.ZipFile(zipped := io.BytesIO(), "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            entry = zipfile.ZipInfo(file.relative_to(folder).as_posix(), _ZIP_EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, file.read_bytes())
    return zipped.getvalue()
