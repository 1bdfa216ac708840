"""What a network file says of itself, read without a runtime."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from google.protobuf import message_factory, text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError

from tasks.cards import ModelError

_ONNX_SCHEMA = Path(__file__).with_name("onnx.textproto")
# Bytes. Protobuf has no larger messages; published topologies are under two million.
_MOST = {".onnx": (2 << 30) - 1, ".xml": 32 << 20}
_EXTERNAL = 1  # TensorProto.data_location: the weights lie in a file of their own

# Types in ONNX Runtime's words, by the numbers of onnx.proto and by OpenVINO's names.
_ONNX = {1: "float", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64"}
_ONNX |= {8: "string", 9: "bool", 10: "float16", 11: "double", 12: "uint32", 13: "uint64"}
_ONNX |= {16: "bfloat16"}
IR_TYPES = {"f32": "float", "f16": "float16", "f64": "double", "bf16": "bfloat16"}
IR_TYPES |= {f"i{bits}": f"int{bits}" for bits in (8, 16, 32, 64)}
IR_TYPES |= {f"u{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)}
IR_TYPES |= {"bool": "bool", "boolean": "bool"}


class Tensor(NamedTuple):
    """An input or output of a network; a size that the graph leaves open is None.

    quantised: of whole numbers q that stand for scale·(q - zero), that scale and zero. Inputs are
    fed as such numbers, outputs are told as what they stand for.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    quantised: tuple[float, int] | None = None

    def __str__(self) -> str:
        sizes = "×".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name} ({sizes} {self.dtype})"


class GraphFile(NamedTuple):
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    metadata: dict[str, str]


def files_of(path: Path) -> list[Path]:
    """A network's files: OpenVINO keeps the weights of an .xml in a .bin beside it."""
    return [path, path.with_suffix(".bin")] if path.suffix.lower() == ".xml" else [path]


def need_files(path: Path) -> None:
    """What is no regular file, a pipe say, might never end."""
    for each in files_of(path):
        if not each.is_file():
            raise ModelError(f"there is no model file {each}")


def read_graph(path: Path) -> GraphFile:
    """Raises ModelError where the file is no whole .onnx or OpenVINO .xml, or keeps weights in
    a file of its own choosing: no hash would cover them.
    """
    read = {".onnx": _read_onnx, ".xml": _read_ir}.get(path.suffix.lower())
    if read is None:
        raise ModelError(f"{path} is no .onnx and no .xml, which are what can be looked into")
    need_files(path)
    try:
        if path.stat().st_size > _MOST[path.suffix.lower()]:
            raise ValueError(f"it is over {_MOST[path.suffix.lower()] >> 20} MiB")
        graph = read(path)
    except OSError as exc:
        raise ModelError(f"the model file {path} cannot be read: {exc.strerror or exc}") from exc
    except (ElementTree.ParseError, DecodeError, ValueError) as exc:
        raise ModelError(f"{path} is no network of its kind, or not a whole one: {exc}") from exc
    if not graph.inputs or not graph.outputs:
        raise ModelError(f"{path} is no network: it has no inputs or no outputs")
    return graph


@cache
def _onnx_model() -> Any:
    """The class of an .onnx file's message, with what is read of it."""
    schema = text_format.Parse(_ONNX_SCHEMA.read_text("utf-8"), FileDescriptorProto())
    return message_factory.GetMessages([schema])["Model"]


def _read_onnx(path: Path) -> GraphFile:
    model = _onnx_model().FromString(path.read_bytes())
    graph, weights = model.graph, model.graph.initializer
    outside = [each for each in weights if each.data_location == _EXTERNAL]
    if outside:
        files = {e.value for w in outside for e in w.external_data if e.key == "location"}
        named = ", ".join(sorted(files))
        raise ModelError(f"{path} keeps weights in {named}: export it as one file")
    stored = {each.name for each in weights}
    return GraphFile(
        # Before IR 4 the weights were listed among the inputs.
        inputs=tuple(_onnx_tensor(each) for each in graph.input if each.name not in stored),
        outputs=tuple(map(_onnx_tensor, graph.output)),
        metadata={each.key: each.value for each in model.metadata_props},
    )


def _onnx_tensor(value: Any) -> Tensor:
    kind = value.type.tensor_type
    sizes = [each.dim_value for each in kind.shape.dim]
    return Tensor(value.name, _shape(sizes), _ONNX.get(kind.elem_type, "undefined"))


def _read_ir(path: Path) -> GraphFile:
    """An OpenVINO topology: layers, the edges between their ports, and rt_info/model_info."""
    net = ElementTree.parse(path).getroot()
    if net.tag != "net":
        raise ValueError("its root is no <net>")
    layers = {layer.get("id"): layer for layer in net.iterfind("layers/layer")}
    edges = {e.get("to-layer"): e for e in net.iterfind("edges/edge")}
    results = []
    for layer in net.iterfind("layers/layer[@type='Result']"):
        edge = edges.get(layer.get("id"), layer)
        source = layers.get(edge.get("from-layer"), layer)
        results.append(_ir_tensor(layer, source, edge.get("from-port")))
    return GraphFile(
        inputs=tuple(_ir_tensor(e, e, None) for e in net.iterfind("layers/*[@type='Parameter']")),
        outputs=tuple(results),
        metadata={e.tag: e.get("value", "") for e in net.iterfind("rt_info/model_info/*")},
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


def _shape(sizes: Iterable[int]) -> tuple[int | None, ...]:
    return tuple(size if size > 0 else None for size in sizes)
