"""What a network file says of itself, read without a runtime and without its weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from tasks.cards import ModelError
from tasks.wire import Field, Wire, WireError

_MOST_XML = 32 << 20  # bytes; the topologies of the published networks are under two million
_MOST_AXES = 32
_EXTERNAL = 1  # TensorProto.data_location: the weights lie in a file of their own

# Types in ONNX Runtime's words, by the numbers of onnx.proto and by OpenVINO's names.
_ONNX = {1: "float", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64"}
_ONNX |= {8: "string", 9: "bool", 10: "float16", 11: "double", 12: "uint32", 13: "uint64"}
_ONNX |= {16: "bfloat16"}
IR_TYPES = {"f32": "float", "f16": "float16", "f64": "double", "bf16": "bfloat16"}
IR_TYPES |= {f"i{bits}": f"int{bits}" for bits in (8, 16, 32, 64)}
IR_TYPES |= {f"u{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)}
IR_TYPES |= {"bool": "bool", "boolean": "bool"}
_FLOATS = {"float", "float16", "double", "bfloat16"}


class Tensor(NamedTuple):
    """An input or output of a network; a size that the graph leaves open is None."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    def __str__(self) -> str:
        sizes = "×".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name} ({sizes} {self.dtype})"


@dataclass(frozen=True)
class GraphFile:
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    metadata: dict[str, str]
    parameters: int | None  # numbers in its float weights; None where it has none
    file_size: int  # bytes, of an .xml with its .bin
    format_version: str
    weight_files: tuple[str, ...] = ()  # beside an .onnx, where it keeps weights outside


def read_graph(path: Path) -> GraphFile:
    """Raises ModelError where the file is no whole .onnx or OpenVINO .xml."""
    read = {".onnx": _read_onnx, ".xml": _read_ir}.get(path.suffix.lower())
    if read is None:
        raise ModelError(f"{path} is no .onnx and no .xml, which are what can be looked into")
    try:
        graph = read(path)
    except FileNotFoundError as exc:
        raise ModelError(f"there is no model file {exc.filename}") from None
    except OSError as exc:
        raise ModelError(f"the model file {path} cannot be read: {exc.strerror or exc}") from exc
    except (WireError, ElementTree.ParseError, ValueError) as exc:
        raise ModelError(f"{path} is no network of its kind, or not a whole one: {exc}") from exc
    if not graph.inputs or not graph.outputs:
        raise ModelError(f"{path} is no network: it has no inputs or no outputs")
    return graph


def _read_onnx(path: Path) -> GraphFile:
    """ModelProto: ir_version 1, graph 7, opset_import 8, metadata_props 14. GraphProto:
    initializer 5, input 11, output 12. The numbers here and below are those of onnx.proto."""
    with path.open("rb") as file:
        wire = Wire(file)
        model = wire.message()
        if len(model[7]) != 1:
            raise WireError("it has no graph")
        graph = wire.message(model[7][0])
        stored, beside = _stored(wire, graph[5])
        opsets = [wire.message(each) for each in model[8]]
        opset = max((wire.number(each[2]) for each in opsets if not wire.text(each[1])), default=0)
        return GraphFile(
            # Before IR 4 the weights were listed among the inputs.
            inputs=tuple(each for each in _tensors(wire, graph[11]) if each.name not in stored),
            outputs=tuple(_tensors(wire, graph[12])),
            metadata=dict(_pairs(wire, model[14])),
            parameters=sum(stored.values()) or None,
            file_size=wire.size,
            format_version=f"ONNX IR {wire.number(model[1])}, opset {opset}",
            weight_files=tuple(sorted(beside)),
        )


def _stored(wire: Wire, tensors: Sequence[Field]) -> tuple[dict[str, int], set[str]]:
    """How many float numbers each weight has, by name, and the files outside that hold weights.

    TensorProto: dims 1, data_type 2, name 8, external_data 13, data_location 14.
    """
    counts, files = {}, set()
    for tensor in map(wire.message, tensors):
        is_float = _ONNX.get(wire.number(tensor[2])) in _FLOATS
        counts[wire.text(tensor[8])] = _count(wire.numbers(tensor[1])) if is_float else 0
        if wire.number(tensor[14]) == _EXTERNAL:
            files |= {value for key, value in _pairs(wire, tensor[13]) if key == "location"}
    return counts, files


def _tensors(wire: Wire, values: Sequence[Field]) -> Iterator[Tensor]:
    """ValueInfoProto: name 1, type 2. Its type, if a tensor's (1): elem_type 1, shape 2, which is
    of dim 1, which is of dim_value 1."""
    for value in map(wire.message, values):
        types = [wire.message(each) for kind in value[2] for each in wire.message(kind)[1]]
        shapes = [wire.message(each) for tensor in types for each in tensor[2]]
        sizes = [wire.number(wire.message(dim)[1]) for shape in shapes for dim in shape[1]]
        dtype = _ONNX.get(wire.number(types[-1][1]) if types else 0, "undefined")
        yield Tensor(wire.text(value[1]), _shape(sizes), dtype)


def _pairs(wire: Wire, entries: Sequence[Field]) -> Iterator[tuple[str, str]]:
    """StringStringEntryProto: key 1, value 2."""
    for entry in map(wire.message, entries):
        yield wire.text(entry[1]), wire.text(entry[2])


class _NoEntities(ElementTree.TreeBuilder):
    """A topology has no DOCTYPE; one that has could expand to anything."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it has a DOCTYPE")


def _read_ir(path: Path) -> GraphFile:
    """An OpenVINO topology: layers, the edges between their ports, and rt_info/model_info."""
    size = path.stat().st_size
    if size > _MOST_XML:
        raise ValueError(f"its topology is over {_MOST_XML >> 20} MiB")
    with path.open("rb") as file:
        net = ElementTree.parse(file, ElementTree.XMLParser(target=_NoEntities())).getroot()
    if net is None or net.tag != "net":
        raise ValueError("its root is no <net>")
    layers = {layer.get("id"): layer for layer in net.iterfind("layers/layer")}
    edges = {e.get("to-layer"): e for e in net.iterfind("edges/edge")}
    found: dict[str, list[Tensor]] = {"Parameter": [], "Const": [], "Result": []}
    for number, layer in layers.items():
        kind = layer.get("type", "")
        if kind in found:
            edge = edges.get(number, layer) if kind == "Result" else layer
            source = layers.get(edge.get("from-layer"), layer)
            found[kind].append(_ir_tensor(layer, source, edge.get("from-port")))
    return GraphFile(
        inputs=tuple(found["Parameter"]),
        outputs=tuple(found["Result"]),
        metadata={e.tag: e.get("value", "") for e in net.iterfind("rt_info/model_info/*")},
        parameters=sum(_count(w.shape) for w in found["Const"] if w.dtype in _FLOATS) or None,
        file_size=size + path.with_suffix(".bin").stat().st_size,
        format_version=f"OpenVINO IR {net.get('version', '?')}",
    )


def _ir_tensor(
    layer: ElementTree.Element, source: ElementTree.Element, number: str | None
) -> Tensor:
    """What comes out of `source`: a layer itself, or what feeds a Result by its port `number`."""
    ports = [each for each in source.iterfind("output/port") if number in (None, each.get("id"))]
    if not ports:
        raise ValueError(f"its layer {source.get('name')!r} has no such port")
    port = ports[0]
    names = (layer.get("output_names") or port.get("names") or "").split(",")
    name = ir_name(layer.get("name", ""), filter(None, names))
    sizes = [int(dim.text or "-1") for dim in port.iterfind("dim")]
    said = [port.get("precision"), *(each.get("element_type") for each in source.iterfind("data"))]
    kind = next(filter(None, said), "").lower().replace("fp", "f")
    return Tensor(name, _shape(sizes), IR_TYPES.get(kind, "undefined"))


def ir_name(layer: str, names: Iterable[str]) -> str:
    """The one name of a tensor, of which OpenVINO may know several.

    It is the graph's own name for this input or output; else one that does not begin with a digit,
    as the numbers of exporters do, the shortest of them and then the first.
    """
    own = layer.partition("/sink_port_")[0]
    return min(names, key=lambda e: (e != own, e[:1].isdigit(), len(e), e), default=own)


def _shape(sizes: Sequence[int]) -> tuple[int | None, ...]:
    return tuple(size if size > 0 else None for size in sizes)


def _count(sizes: Sequence[int | None]) -> int:
    if len(sizes) > _MOST_AXES:
        raise ValueError(f"it has a weight of {len(sizes)} axes")
    return prod(size or 0 for size in sizes)
