"""TorchScript: the only module of the export that touches ``torch.jit``, which is deprecated."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path

import torch

from training.files import atomic_path
from training.networks import Generator

TRACE_BATCH = 2


def export_torchscript(generator: Generator, path: Path) -> None:
    """Trace a Generator, noise (N, nz) float32 -> pictures (N, C, H, W) float32 in [-1, 1].

    Args:
        generator: in eval mode (a trace of train mode would mix the pictures of a batch).
        path: written atomically.
    """
    if generator.training:
        raise ValueError("the Generator is in train mode; call eval() before exporting it")
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(generator, torch.zeros(TRACE_BATCH, generator.nz))
        with atomic_path(path) as beside:
            buffer = io.BytesIO()  # a path would be written into the file as its folder's name
            torch.jit.save(traced, buffer)
            _strip_debug(buffer, beside)


def _strip_debug(saved: io.BytesIO, path: Path) -> None:
    """Copy a TorchScript file without its debug records.

    They hold the stack of the trace, with paths of this machine: the same weights exported in
    another folder would not give the same bytes, and the paths would be published.
    """
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            if not entry.filename.endswith((".debug_pkl", "/.data/serialization_id")):
                target.writestr(zipfile.ZipInfo(entry.filename), source.read(entry))
