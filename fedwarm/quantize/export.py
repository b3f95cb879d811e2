"""Quantized models as files of their true size: packed safetensors, or ONNX with whole-number weights.

The safetensors file holds each quantized weight as ceil(bits numel / 8) bytes under its own name and its steps under
`<name>.step`; whatever else the model's state holds is float. Of a tensor that is mostly zeros before it is quantized it holds
the others alone, and a bit for each number under `<name>.mask`. Its header says the rest as JSON. In the ONNX file a weight is an
initializer of the narrowest whole type that holds it (2, 4, 8 or 16 bits) with a DequantizeLinear behind it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedwarm.coding.packing import CodeError, mask_bytes, pack, pack_mask, unpack, unpack_mask
from fedwarm.core.files import replacing
from fedwarm.core.inputs import Form
from fedwarm.data.scaling import Scale
from fedwarm.models import Model, build_model, model_of, own_settings_of
from fedwarm.quantize.coded import Coded
from fedwarm.quantize.learned import Learned
from fedwarm.quantize.surgery import layers, tensor_of
from fedwarm.quantize.sweep import weight_grids
from fedwarm.quantize.uniform import FLOAT_BITS, PLAIN, Scheme, levels
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import MODELS
from fedwarm.tasks import Task

FORMATS = ("torch", "onnx")
HEADER, VERSION, STEP = "fedwarm", 1, ".step"
MASK, SPARSE_VERSION, MOSTLY = ".mask", 2, 0.5  # a file that leaves zeros out is of another version
KEPT = "kept"  # the header's key of the units that are left, where some are


@dataclass(frozen=True)
class Exported:
    """What a file holds, in bytes.

    Attributes:
        bits: the width of the weights.
        stored_bits: the width that they are stored in; more only where ONNX has no type of `bits`.
        weights: how many weights the quantized layers have.
        zeros: how many of these are zeros that the file leaves out.
        weight_bytes: what they take, with the bits that say where zeros are.
        overhead_bytes: everything else: steps, biases and norms as floats, names, shapes and, in ONNX, the graph.
        file_bytes: the sum.
    """

    bits: int
    stored_bits: int
    weights: int
    zeros: int
    weight_bytes: int
    overhead_bytes: int
    file_bytes: int

    @property
    def text(self) -> str:
        stored = "" if self.stored_bits == self.bits else f" (ONNX has no {self.bits}-bit type: stored in {self.stored_bits})"
        kind = "float" if self.bits == FLOAT_BITS else f"{self.bits}-bit"
        left = f", {self.zeros:,} of them zeros that are left out," if self.zeros else ""
        weights = f"{self.weights:,} {kind} weights{stored}{left} in {self.weight_bytes:,} bytes"
        return f"{weights}, {self.overhead_bytes:,} bytes of other floats, names and structure: {self.file_bytes:,} bytes"


def export(
    model: nn.Module,
    bits: int,
    form: str,
    path: Path,
    settings: Model,
    classes: int,
    inputs: Form | int,
    scheme: Scheme = PLAIN,
    learned: Learned | None = None,
    told: Mapping[str, Any] | None = None,
    task: Task | None = None,
    scale: Scale | None = None,
) -> Exported:
    """Write the model with its weights quantized; what a device would load.

    Args:
        model: the float model; not changed.
        bits: 2 to 16, or 32 for float.
        form: `torch` or `onnx`.
        path: the file.
        settings: the architecture's name, as `build_model` knows it.
        classes, inputs: what the architecture was built with.
        scheme: how weights are quantized.
        learned: steps to take at the width they belong to.
        told: what else a `torch` file should say in its header.
        task: whose outputs an `onnx` file gives; None: the model's.
        scale: how an `onnx` file scales its inputs; None: not at all.

    Raises:
        SettingError: unknown format or width, numbers that are not finite, or ONNX's packages are missing.
    """
    if form not in FORMATS:
        raise SettingError(f"format {form!r} is unknown; choose one of {', '.join(FORMATS)}")
    _check_finite(model)
    coded = codes_of(model, bits, scheme, learned)
    sizes = {tensor_of(n): part.get_parameter("weight").numel() for n, part in layers(model, scheme.skip_first_last).items()}
    left: dict[str, int] = {}
    if form == "onnx":
        from fedwarm.quantize.onnx_graph import write_onnx

        stored_bits = write_onnx(model, coded, bits, path, Form.at(inputs), task or Task(), scale)
    else:
        stored_bits = bits
        own = {"model": settings.name, "norm": settings.norm, "classes": classes, **_shape(Form.at(inputs))}
        special = own_settings_of(settings)
        left = _write_packed(model, coded, bits, path, {**(told or {}), **own, **({"settings": special} if special else {})})
    zeros = {name: size - left.get(name, size) for name, size in sizes.items()}
    weight_bytes = sum(
        _bytes(size - zeros[name], stored_bits) + mask_bytes(size) * (name in left) for name, size in sizes.items()
    )
    file_bytes = path.stat().st_size
    return Exported(
        bits, stored_bits, sum(sizes.values()), sum(zeros.values()), weight_bytes, file_bytes - weight_bytes, file_bytes
    )


def _check_finite(model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise SettingError(
                f"{name} holds NaN or infinity; such a model cannot be exported: train it again, e.g. with a lower learning-rate"
            )


def _bytes(count: int, bits: int) -> int:
    return -(-count * bits // 8)


def _shape(form: Form) -> dict[str, Any]:
    """What a header says of one input."""
    if form.pictures:
        return {"image_size": form.side}
    return {"inputs": {"shape": list(form.shape), "dtype": form.dtype, "vocabulary": form.vocabulary}}


def _form(header: Mapping[str, Any]) -> Form:
    told = header.get("inputs")
    if told is None:
        return Form.picture(int(header["image_size"]))
    return Form(tuple(int(n) for n in told["shape"]), str(told["dtype"]), int(told["vocabulary"]))


@torch.no_grad()
def codes_of(model: nn.Module, bits: int, scheme: Scheme = PLAIN, learned: Learned | None = None) -> dict[str, Coded]:
    """The quantized weights by their names in the state.

    Raises:
        SettingError: the width is none.
    """
    found = {}
    for layer, grid in weight_grids(model, bits, scheme, learned).items():
        weight = model.get_submodule(layer).get_parameter("weight").detach()
        low = levels(bits, scheme.full_range)[0]
        codes = (grid.codes(weight) - low).cpu().numpy().astype(np.uint16)
        found[tensor_of(layer)] = Coded(codes, low, grid.step.reshape(-1).float().cpu())
    return found


def _write_packed(model: nn.Module, coded: Mapping[str, Coded], bits: int, path: Path, told: Mapping[str, Any]) -> dict[str, int]:
    """How many numbers are left of each weight whose zeros the file leaves out."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    left: dict[str, int] = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in model.state_dict().items():
        code = coded.get(name)
        values = tensor.detach().cpu().numpy() if code is None else code.codes
        there = values != (0 if code is None else -code.low)
        width = bits if code is not None else 8 * values.itemsize
        small = mask_bytes(values.size) + _bytes(int(there.sum()), width) < _bytes(values.size, width)
        if small and values.ndim > 1 and float((tensor == 0).float().mean()) > MOSTLY:
            left[name], shapes[name] = int(there.sum()), list(values.shape)
            tensors[name + MASK] = torch.frombuffer(bytearray(pack_mask(there.reshape(-1))), dtype=torch.uint8)
            values = values[there]
        if code is not None:
            packed = bytearray(pack(values.reshape(-1), bits))
            tensors[name] = torch.frombuffer(packed, dtype=torch.uint8) if packed else torch.empty(0, dtype=torch.uint8)
            tensors[name + STEP] = code.step
        else:
            whole = tensor.detach().cpu().contiguous().clone()
            tensors[name] = torch.from_numpy(values) if name in left else whole
    version = SPARSE_VERSION if left else VERSION
    header = {"version": version, "bits": bits, **told, "low": min((c.low for c in coded.values()), default=0)}
    header["shapes"] = {name: list(c.codes.shape) for name, c in coded.items()}
    if left:
        header["sparse"] = shapes
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={HEADER: json.dumps(header, separators=(",", ":"))})
    return left


def was_exported(path: Path) -> bool:
    """Whether a file that is there is an exported model: no run writes ONNX, and a `torch` file has a header of its own."""
    from safetensors import SafetensorError, safe_open

    if path.suffix == ".onnx":
        return True
    try:
        with safe_open(path, framework="numpy") as file:
            return HEADER in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def load_exported(
    path: Path, settings: Model | None = None, fit: Callable[[nn.Module, Mapping[str, Any]], nn.Module] | None = None
) -> nn.Module:
    """The model out of a file that `export` wrote as `torch`, its weights the float values of the grid.

    Args:
        path: the file.
        settings: the architecture; what the file says if None.
        fit: makes of the architecture, by what the file's header says, the network whose weights these are.

    Raises:
        SettingError: it is no such file, it leaves units out and `fit` is None, or it does not fit the architecture.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a safetensors file is no mapping)
        if header["version"] not in (VERSION, SPARSE_VERSION):
            raise SettingError(
                f"{path} has version {header['version']!r}; this fedwarm reads versions {VERSION} and {SPARSE_VERSION}: export "
                "the run again"
            )
        if KEPT in header and fit is None:
            raise SettingError(f"{path} leaves units out that do nothing; read it by fedwarm.sparse.export.load_small")
        state = _unpacked(tensors, header["shapes"], int(header["bits"]), int(header["low"]), header.get("sparse", {}))
        name = settings.name if settings else header["model"]
        if not MODELS.takes(name):
            raise SettingError(
                f"{path} holds a model {name!r}, which is not known here; the models are {', '.join(MODELS.names())}"
            )
        named = {"model.name": name, "model.norm": header.get("norm", Model.norm)}
        architecture = settings or model_of({**header.get("settings", {}), **named})
        sizes = int(header["classes"]), _form(header)
        if fit is None:
            return build_model(architecture, *sizes, 0, state)
        model = fit(build_model(architecture, *sizes, 0), header)
        model.load_state_dict(state, strict=True)
        return model
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, SettingError):
            raise
        reason = " ".join(str(error).split())[:300]
        raise SettingError(f"{path} was not written by `fedwarm export`: {type(error).__name__}: {reason}") from error


def _unpacked(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, list[int]], bits: int, low: int, sparse: Mapping[str, list[int]]
) -> dict[str, Tensor]:
    """The float state."""
    beside = {name + STEP for name in shapes} | {name + MASK for name in sparse}
    state = {name: tensor for name, tensor in tensors.items() if name not in beside}
    if not isinstance(sparse, dict) or any(name in shapes and shapes[name] != shape for name, shape in sparse.items()):
        raise CodeError("the shapes of what is stored without zeros are not those of the weights")
    there = {name: unpack_mask(tensors[name + MASK].numpy().tobytes(), math.prod(shape)) for name, shape in sparse.items()}
    for name, shape in sparse.items():
        if name not in shapes:
            if tensors[name].shape != (int(there[name].sum()),):
                raise CodeError(f"{name} has {list(tensors[name].shape)} numbers for {int(there[name].sum())} places")
            whole = np.zeros(there[name].size, tensors[name].numpy().dtype)
            whole[there[name]] = tensors[name].numpy()
            state[name] = torch.from_numpy(whole).reshape(shape)
    for name, shape in shapes.items():
        count = int(there[name].sum()) if name in there else math.prod(shape)
        codes = unpack(tensors[name].numpy().tobytes(), count, bits).astype(np.float32) + low
        if name in there:
            whole = np.zeros(there[name].size, np.float32)
            whole[there[name]] = codes
            codes = whole
        step = tensors[name + STEP]
        if step.numel() not in (1, shape[0]) or not bool(torch.isfinite(step).all()):
            raise CodeError(f"{name} has {step.numel()} steps for {shape[0]} channels")
        state[name] = torch.from_numpy(codes).reshape(shape) * step.reshape(-1, *[1] * (len(shape) - 1))
    return state
