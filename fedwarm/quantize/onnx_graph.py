"""A model as an ONNX graph whose weights are whole numbers with a DequantizeLinear behind each.

The graph takes pictures as they are, `images` uint8 (n, 3, S, S), other inputs as `inputs` (n, *shape) in the data set's own
type, and gives `logits` (n, outputs), as the model does.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from fedwarm.coding.packing import pack
from fedwarm.core.files import replacing
from fedwarm.core.inputs import Form
from fedwarm.models import to_input
from fedwarm.settings.fields import SettingError

if TYPE_CHECKING:
    from fedwarm.quantize.coded import Coded

OPSET, OPSET_OF_TWO_BITS = 21, 25
STORED_BITS = (2, 4, 8, 16)
PREFIX = "classifier."


class _Whole(nn.Module):
    """A model that takes inputs as data sets hold them, pictures as bytes."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, inputs: Tensor) -> Any:
        return self.classifier(to_input(inputs))


def write_onnx(model: nn.Module, coded: Mapping[str, Coded], bits: int, path: Path, form: Form) -> int:
    """Write the graph; the bits that a quantized weight is stored in.

    What torch, onnx and onnxscript warn of is no user's business, and ends no export where warnings are errors.

    Raises:
        SettingError: onnx or onnxscript is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _write(model, coded, bits, path, form)


def _write(model: nn.Module, coded: Mapping[str, Coded], bits: int, path: Path, form: Form) -> int:
    try:
        import onnx
        import onnxscript  # noqa: F401 (torch.onnx needs it)
    except ImportError as error:
        raise SettingError(
            f"format 'onnx' needs the packages onnx and onnxscript ({error}); pip install fedwarm[onnx]"
        ) from error
    stored = next((width for width in STORED_BITS if width >= bits), bits)
    graph = _traced(model, form)
    if {PREFIX + name for name in coded} - {each.name for each in graph.graph.initializer}:  # turned over: what optimising does
        graph = _traced(model, form, optimise=False)
    if stored == STORED_BITS[0]:
        graph = onnx.version_converter.convert_version(graph, OPSET_OF_TWO_BITS)
        graph.ir_version = max(graph.ir_version, onnx.helper.find_min_ir_version_for(list(graph.opset_import)))
    for name, weight in coded.items():
        _replace(graph.graph, PREFIX + name, weight, stored)
    onnx.checker.check_model(graph)
    with replacing(path) as temporary:
        temporary.write_bytes(graph.SerializeToString())
    return stored


def _traced(model: nn.Module, form: Form, optimise: bool = True) -> Any:
    """The float graph, with any number of inputs."""
    torch.zeros(1, requires_grad=True).sum().backward()  # before the exporter makes a device known
    twin = _Whole(copy.deepcopy(model).cpu()).eval()
    example = (form.empty(2),)
    shapes = ({0: torch.export.Dim("n")},)
    names = ["images" if form.pictures else "inputs"], ["logits"]
    program = torch.onnx.export(
        twin, example, dynamo=True, input_names=names[0], output_names=names[1], dynamic_shapes=shapes,
        opset_version=OPSET, verbose=False, optimize=optimise,
    )  # fmt: skip
    assert program is not None
    return _plain(program.model_proto)


def _plain(graph: Any) -> Any:
    """The graph without what a tracer notes of the machine it ran on: files, lines, intermediate shapes."""
    for part in (graph, graph.graph, *graph.graph.node, *graph.graph.initializer, *graph.graph.input, *graph.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.graph.ClearField("value_info")
    return graph


def _replace(graph: Any, name: str, weight: Coded, stored: int) -> None:
    """Put whole numbers and a DequantizeLinear in the place of a float initializer."""
    from onnx import TensorProto, helper, numpy_helper

    places = [i for i, initializer in enumerate(graph.initializer) if initializer.name == name]
    if not places:
        raise SettingError(f"{name.removeprefix(PREFIX)} is missing in the ONNX graph; export with --format torch")
    del graph.initializer[places[0]]
    signed = (weight.codes.astype(np.int64) + weight.low) & ((1 << stored) - 1)
    raw = pack(signed.reshape(-1), stored)
    kind = getattr(TensorProto, f"INT{stored}")
    step = weight.step.numpy() if weight.step.numel() > 1 else weight.step.numpy().reshape(())
    graph.initializer.append(helper.make_tensor(name + ".codes", kind, weight.codes.shape, raw, raw=True))
    graph.initializer.append(numpy_helper.from_array(step, name + ".step"))
    graph.node.insert(0, helper.make_node("DequantizeLinear", [name + ".codes", name + ".step"], [name], axis=0))
