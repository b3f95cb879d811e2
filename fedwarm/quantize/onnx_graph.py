"""A model as an ONNX graph whose weights are whole numbers with a DequantizeLinear behind each.

The graph takes pictures as they are, `images` uint8 (n, 3, S, S), other inputs as `inputs` (n, *shape) in the data set's own
type, a table's columns before they are scaled where it is known how, and gives `logits` (n, outputs), the outputs of the run's
task.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from fedwarm.coding.packing import pack
from fedwarm.core.files import replacing
from fedwarm.core.inputs import Form
from fedwarm.data.scaling import Scale
from fedwarm.models import to_input
from fedwarm.settings.fields import SettingError
from fedwarm.tasks import Task

if TYPE_CHECKING:
    from fedwarm.quantize.coded import Coded

OPSET, OPSET_OF_TWO_BITS = 21, 25
STORED_BITS = (2, 4, 8, 16)
PREFIX = "classifier."


class _Whole(nn.Module):
    """A task's outputs by a model, of inputs as data sets hold them, pictures as bytes."""

    def __init__(self, classifier: nn.Module, task: Task, scale: Scale | None) -> None:
        super().__init__()
        self.classifier, self.task, self.scale = classifier, task, scale

    def forward(self, inputs: Tensor) -> Tensor:
        seen = to_input(inputs) if self.scale is None else self.scale.of(inputs)
        return self.task.outputs(self.classifier, seen, None)


def write_onnx(
    model: nn.Module, coded: Mapping[str, Coded], bits: int, path: Path, form: Form, task: Task, scale: Scale | None = None
) -> int:
    """Write the graph; the bits that a quantized weight is stored in.

    What torch, onnx and onnxscript warn of is no user's business, and ends no export where warnings are errors.

    Raises:
        SettingError: onnx or onnxscript is not installed, or the graph does not hold a weight as it is.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _write(model, coded, bits, path, form, task, scale)


def _write(
    model: nn.Module, coded: Mapping[str, Coded], bits: int, path: Path, form: Form, task: Task, scale: Scale | None
) -> int:
    try:
        import onnx
        import onnxscript  # noqa: F401 (torch.onnx needs it)
    except ImportError as error:
        raise SettingError(
            f"format 'onnx' needs the packages onnx and onnxscript ({error}); pip install fedwarm[onnx]"
        ) from error
    stored = next((width for width in STORED_BITS if width >= bits), bits)
    whole = _Whole(copy.deepcopy(model).cpu(), task, scale).eval()
    graph = _traced(whole, form)
    if _altered(graph, model, coded):
        graph = _traced(whole, form, optimise=False)
    if altered := _altered(graph, model, coded):
        raise SettingError(f"the ONNX graph does not hold {altered[0]} as it is; export with --format torch")
    if stored == STORED_BITS[0]:
        graph = onnx.version_converter.convert_version(graph, OPSET_OF_TWO_BITS)
        graph.ir_version = max(graph.ir_version, onnx.helper.find_min_ir_version_for(list(graph.opset_import)))
    for name, weight in coded.items():
        _replace(graph.graph, PREFIX + name, weight, stored)
    onnx.checker.check_model(graph)
    with replacing(path) as temporary:
        temporary.write_bytes(graph.SerializeToString())
    return stored


def _altered(graph: Any, model: nn.Module, names: Iterable[str]) -> list[str]:
    """The weights that are no initializers as they are: optimising turns them over, or multiplies normalisations into them."""
    from onnx import numpy_helper

    held = {each.name.removeprefix(PREFIX): numpy_helper.to_array(each) for each in graph.graph.initializer}
    weights = {name: model.get_parameter(name).detach().float().cpu().numpy() for name in names}
    return [name for name, weight in weights.items() if name not in held or not np.array_equal(held[name], weight)]


def _traced(whole: nn.Module, form: Form, optimise: bool = True) -> Any:
    """The float graph, with any number of inputs."""
    torch.zeros(1, requires_grad=True).sum().backward()  # before the exporter makes a device known
    example = (form.empty(2),)
    shapes = ({0: torch.export.Dim("n")},)
    names = ["images" if form.pictures else "inputs"], ["logits"]
    program = torch.onnx.export(
        whole, example, dynamo=True, input_names=names[0], output_names=names[1], dynamic_shapes=shapes,
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

    del graph.initializer[[initializer.name for initializer in graph.initializer].index(name)]
    signed = (weight.codes.astype(np.int64) + weight.low) & ((1 << stored) - 1)
    raw = pack(signed.reshape(-1), stored)
    kind = getattr(TensorProto, f"INT{stored}")
    step = weight.step.numpy() if weight.step.numel() > 1 else weight.step.numpy().reshape(())
    graph.initializer.append(helper.make_tensor(name + ".codes", kind, weight.codes.shape, raw, raw=True))
    graph.initializer.append(numpy_helper.from_array(step, name + ".step"))
    graph.node.insert(0, helper.make_node("DequantizeLinear", [name + ".codes", name + ".step"], [name], axis=0))
