"""ONNX: one file, free batch size, the equal second path beside TorchScript."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import torch

from training.files import atomic_path
from training.networks import Generator

OPSET = 18  # the exporter's own; the file asks for less, see below
EXAMPLE_BATCH = 2  # an example of 1 can be specialised to a fixed batch of 1
NOISE, IMAGES = "noise", "images"


@dataclass(frozen=True)
class OnnxFacts:
    """What a runtime must support to load the file."""

    opset: int
    ir_version: int


def export_onnx(generator: Generator, path: Path) -> OnnxFacts:
    """Write ``noise`` (N, nz) float32 -> ``images`` (N, C, H, W) float32 in [-1, 1].

    Args:
        generator: in eval mode.
        path: written atomically; the weights are inside, no ``.data`` file beside it.
    """
    if generator.training:
        raise ValueError("the Generator is in train mode; call eval() before exporting it")
    program = torch.onnx.export(
        generator,
        (torch.zeros(EXAMPLE_BATCH, generator.nz),),
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
    with atomic_path(path) as beside:
        beside.write_bytes(model.SerializeToString(deterministic=True))
    return OnnxFacts(opset=model.opset_import[0].version, ir_version=model.ir_version)


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
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output,
                 *graph.initializer):  # fmt: skip
        del part.metadata_props[:]
        part.doc_string = ""
