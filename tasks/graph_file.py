"""What a network file says of itself: an .onnx without a runtime, an .xml by OpenVINO."""

from collections.abc import Iterable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import message_factory, text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError

from tasks.cards import ModelError

_ONNX_SCHEMA = Path(__file__).with_name("onnx.textproto")
_MOST = (2 << 30) - 1  # bytes; protobuf has no larger messages
_EXTERNAL = 1  # TensorProto.data_location: the weights lie in a file of their own

# Types in ONNX Runtime's words, by the numbers of onnx.proto.
_TYPES = {1: "float", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64"}
_TYPES |= {8: "string", 9: "bool", 10: "float16", 11: "double", 12: "uint32", 13: "uint64"}
_TYPES |= {16: "bfloat16"}


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
    graph = read(path)
    if not graph.inputs or not graph.outputs:
        raise ModelError(f"{path} is no network: it has no inputs or no outputs")
    return graph


@cache
def _onnx_model() -> Any:
    """The class of an .onnx file's message, with what is read of it."""
    schema = text_format.Parse(_ONNX_SCHEMA.read_text("utf-8"), FileDescriptorProto())
    return message_factory.GetMessages([schema])["Model"]


def _read_onnx(path: Path) -> GraphFile:
    try:
        if path.stat().st_size > _MOST:
            raise ValueError("it is over 2 GiB")
        model = _onnx_model().FromString(path.read_bytes())
    except OSError as exc:
        raise ModelError(f"the model file {path} cannot be read: {exc.strerror or exc}") from exc
    except (DecodeError, ValueError) as exc:
        raise ModelError(f"{path} is no network of its kind, or not a whole one: {exc}") from exc
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
    return Tensor(value.name, _shape(sizes), _TYPES.get(kind.elem_type, "undefined"))


def _read_ir(path: Path) -> GraphFile:
    try:
        openvino = import_module("worker.openvino_runtime")
    except ModuleNotFoundError as exc:
        needed = "OpenVINO looks into it: pip install 'maskmill[worker,openvino]'"
        raise ModelError(f"{path} cannot be looked into without {exc.name}; {needed}") from exc
    graph: GraphFile = openvino.look_into(str(path))
    return graph


def _shape(sizes: Iterable[int]) -> tuple[int | None, ...]:
    return tuple(size if size > 0 else None for size in sizes)
