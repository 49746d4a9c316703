"""A Generator as the two model files of the archive: BatchNorm folded, then TorchScript and ONNX.

The only module of the export that touches ``torch.jit``, which is deprecated; ONNX is the equal
second path.
"""

from __future__ import annotations

import copy
import io
import warnings
import zipfile
from pathlib import Path

import onnx
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from training.networks import Generator

TRACE_BATCH = 2  # an example of 1 can be specialised to a fixed batch of 1
OPSET = 18  # the exporter's own; the file asks for less, see below
NOISE, IMAGES = "noise", "images"


def fold_batchnorm(generator: Generator) -> Generator:
    """A copy without BatchNorm, equal up to the rounding of float32.

    In eval mode BatchNorm is an affine map of each channel, and so a factor of the weights and
    a bias (B. Jacob et al., arXiv:1712.05877, section 3.2).

    Args:
        generator: in eval mode; it is not changed.
    """
    folded = copy.deepcopy(generator)
    layers: list[nn.Module] = []
    for layer in folded.layers:
        if isinstance(layer, nn.BatchNorm2d):
            convolution = layers.pop()
            assert isinstance(convolution, nn.ConvTranspose2d)
            layers.append(fuse_conv_bn_eval(convolution, layer, transpose=True))
        else:
            layers.append(layer)
    folded.layers = nn.Sequential(*layers)
    return folded


def export_torchscript(generator: Generator, path: Path) -> None:
    """Trace a Generator, noise (N, nz) float32 -> pictures (N, C, H, W) float32 in [-1, 1].

    Args:
        generator: in eval mode.
    """
    _check_mode(generator)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(generator, torch.zeros(TRACE_BATCH, generator.nz))
        buffer = io.BytesIO()  # a path would be written into the file as its folder's name
        torch.jit.save(traced, buffer)
        _strip_debug(buffer, path)


def _check_mode(generator: Generator) -> None:
    """A file of train mode would mix the pictures of a batch."""
    if generator.training:
        raise ValueError("the Generator is in train mode; call eval() before exporting it")


def _strip_debug(saved: io.BytesIO, path: Path) -> None:
    """Copy a TorchScript file without its debug records.

    They hold the stack of the trace, with paths of this machine: the same weights exported in
    another folder would not give the same bytes, and the paths would be published.
    """
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            if not entry.filename.endswith((".debug_pkl", "/.data/serialization_id")):
                target.writestr(zipfile.ZipInfo(entry.filename), source.read(entry))


def export_onnx(generator: Generator, path: Path) -> dict[str, int]:
    """Write ``noise`` (N, nz) float32 -> ``images`` (N, C, H, W) float32 in [-1, 1].

    Args:
        generator: in eval mode.
        path: of the file; the weights are inside, no ``.data`` file beside it.

    Returns:
        What a runtime must support to load it: ``opset`` and ``ir_version``.
    """
    _check_mode(generator)
    program = torch.onnx.export(
        generator,
        (torch.zeros(TRACE_BATCH, generator.nz),),
        dynamo=True,
        external_data=False,
        input_names=[NOISE],
        output_names=[IMAGES],
        dynamic_shapes=({0: torch.export.Dim("N")},),
        opset_version=OPSET,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    model = program.model_proto
    _strip_traces(model)
    _ask_for_the_oldest(model)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return {"opset": model.opset_import[0].version, "ir_version": model.ir_version}


def _ask_for_the_oldest(model: onnx.ModelProto) -> None:
    """Declare the oldest opset in which each operator is what it is in ``OPSET``, and its IR.

    The same computation, for more runtimes.
    """
    opset = max(
        onnx.defs.get_schema(node.op_type, OPSET).since_version for node in model.graph.node
    )
    model.opset_import[0].version = opset
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import)


def _strip_traces(model: onnx.ModelProto) -> None:
    """Drop stack traces and the like: they hold paths of this machine and differ by folder."""
    graph = model.graph
    tensors = (*graph.value_info, *graph.input, *graph.output, *graph.initializer)
    for part in (model, graph, *graph.node, *tensors):
        del part.metadata_props[:]
        part.doc_string = ""
