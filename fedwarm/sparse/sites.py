"""Which units of a classifier can go: found in the graph of its layers, whatever its architecture.

A unit is a feature map of a convolution or an input of a linear layer. A map can go where one path leads from its convolution to
one layer that reads it, and all between keeps zeros: normalisation by groups with scale and shift, ReLU, pooling, flattening.
Maps that a shortcut adds to others stay, as all layers that write to or read from that sum have the same ones. Maps that
GroupNorm normalises together share one gate: what is left of them is then normalised as before.
Nothing of this counts where every weight has a gate of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import fx, nn

SILENT = (
    nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
    nn.Dropout, nn.Dropout2d, nn.Identity, nn.Flatten,
)  # fmt: skip
SILENT_FUNCTIONS = ("relu", "tanh", "flatten", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "dropout", "gelu", "silu")


@dataclass(frozen=True)
class Site:
    """The gates of one layer.

    Attributes:
        layer: whose weights are grouped: a convolution's filters by map, a linear layer's columns by input.
        inputs: whether it is a linear layer.
        gates: how many there are.
        units: maps that share one; 1 for inputs.
        norm: the GroupNorm behind a convolution; empty: none.
        source: the layer that makes a linear layer's inputs and whose units go with them; empty: none can.
        spread: inputs that one unit of `source` becomes.
        reader: the layer that reads a convolution's maps.
        single: whether each weight has a gate of its own; then there are neither maps nor inputs.
    """

    layer: str
    inputs: bool
    gates: int
    units: int = 1
    norm: str = ""
    source: str = ""
    spread: int = 1
    reader: str = ""
    single: bool = False

    @property
    def weight(self) -> str:
        """The name of the grouped tensor."""
        return f"{self.layer}.weight"


def singles(model: nn.Module) -> tuple[Site, ...]:
    """A gate for every weight of the convolutions and linear layers of a model, whatever stands between them."""
    layers = [(name, part) for name, part in model.named_modules() if type(part) in (nn.Conv2d, nn.Linear)]
    return tuple(Site(name, False, part.get_parameter("weight").numel(), single=True) for name, part in layers)


def found(model: nn.Module) -> tuple[Site, ...]:
    """The sites of a model, in the order of its layers; of one whose graph cannot be traced its linear layers' inputs."""
    parts = dict(model.named_modules())
    try:
        nodes = [*fx.Tracer().trace(model).nodes]
    except Exception:  # whatever a model does that has no graph
        linear = [(name, part) for name, part in parts.items() if type(part) is nn.Linear]
        return tuple(Site(name, True, part.in_features) for name, part in linear)
    called = [str(node.target) for node in nodes if node.op == "call_module"]
    once = {name for name in called if called.count(name) == 1}
    conv = {n.target: site for n in nodes if n.target in once and (site := _maps(n, parts, once)) is not None}
    sites = []
    for node in nodes:
        if node.target in conv:
            sites.append(conv[node.target])
        elif node.target in once and type(parts[str(node.target)]) is nn.Linear:
            sites.append(_inputs(node, parts, once, conv))
    return tuple(sites)


def _maps(node: fx.Node, parts: dict[str, nn.Module], once: set[str]) -> Site | None:
    """The site of a convolution's maps; None where they cannot go, or it is no convolution."""
    conv = parts[str(node.target)]
    if type(conv) is not nn.Conv2d or conv.groups != 1:
        return None
    norm, units = "", 1
    after = _next(node)
    while after is not None and _silent(after, parts) and isinstance(parts.get(str(after.target)), nn.Identity):
        after = _next(after)
    layer = parts.get(str(after.target)) if after is not None and after.target in once else None
    if after is not None and isinstance(layer, nn.GroupNorm) and layer.affine:
        norm, units, after = str(after.target), layer.num_channels // layer.num_groups, _next(after)
    flat = None
    while after is not None and _silent(after, parts):
        flat, after = flat or _flattened(after, parts), _next(after)
    reader = parts.get(str(after.target)) if after is not None and after.target in once else None
    if after is None or not _reads(reader, conv.out_channels, flat):
        return None
    return Site(str(node.target), False, conv.out_channels // units, units, norm, reader=str(after.target))


def _inputs(node: fx.Node, parts: dict[str, nn.Module], once: set[str], conv: dict[fx.node.Target, Site]) -> Site:
    """The site of a linear layer's inputs."""
    layer = parts[str(node.target)]
    assert isinstance(layer, nn.Linear)
    plain, before = Site(str(node.target), True, layer.in_features), node.all_input_nodes[0]
    while _silent(before, parts) and len(before.users) == 1:
        before = before.all_input_nodes[0]
    if len(before.users) != 1 or before.op != "call_module":
        return plain
    maker = next((s for s in conv.values() if s.reader == node.target), None)
    if maker is not None:
        return replace(plain, source=maker.layer, spread=layer.in_features // (maker.gates * maker.units))
    made = parts[str(before.target)]
    whole = before.target in once and type(made) is nn.Linear and made.out_features == layer.in_features
    return replace(plain, source=str(before.target)) if whole else plain


def _reads(reader: nn.Module | None, maps: int, flat: tuple[int, int] | None) -> bool:
    """Whether a layer reads so many maps (b, c, h, w), each by weights of its own; `flat`: axes that were made one before."""
    if type(reader) is nn.Conv2d:
        return flat is None and reader.groups == 1
    return type(reader) is nn.Linear and flat in ((1, -1), (1, 3)) and reader.in_features % maps == 0


def _flattened(node: fx.Node, parts: dict[str, nn.Module]) -> tuple[int, int] | None:
    """The first and last of the axes that a node makes one; None where it makes none."""
    if node.op == "call_module":
        layer = parts[str(node.target)]
        return (layer.start_dim, layer.end_dim) if isinstance(layer, nn.Flatten) else None
    if getattr(node.target, "__name__", node.target) != "flatten":
        return None
    given = {**dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)), **node.kwargs}
    return given.get("start_dim", 0), given.get("end_dim", -1)  # type: ignore[return-value]


def _next(node: fx.Node) -> fx.Node | None:
    """The only node that uses another; None where there are more or none."""
    users = [*node.users]
    return users[0] if len(users) == 1 and users[0].op != "output" else None


def _silent(node: fx.Node, parts: dict[str, nn.Module]) -> bool:
    """Whether a node makes zeros of zeros, unit by unit, and has one input."""
    if len(node.all_input_nodes) != 1:
        return False
    if node.op == "call_module":
        return isinstance(parts[str(node.target)], SILENT)
    return getattr(node.target, "__name__", str(node.target)) in SILENT_FUNCTIONS
