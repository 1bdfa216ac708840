"""A network file looked into without a runtime, against what the onnx package and runtimes say."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tasks.cards import ModelError
from tasks.graph_file import GraphFile, Tensor, read_graph
from tests.graphs import write_model

DTYPES = {TensorProto.FLOAT: "float", TensorProto.INT64: "int64", TensorProto.BOOL: "bool"}


def plain(path: Path) -> GraphFile:
    """The same by the onnx package."""
    model = onnx.load(path, load_external_data=False)
    stored = {each.name for each in model.graph.initializer}
    return GraphFile(
        tuple(_tensor(each) for each in model.graph.input if each.name not in stored),
        tuple(_tensor(each) for each in model.graph.output),
        {each.key: each.value for each in model.metadata_props},
    )


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    sizes = [dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim]
    return Tensor(value.name, tuple(sizes), DTYPES[kind.elem_type])


def write_onnx(path: Path, **changes: Any) -> Path:
    """A graph with what the canned ones lack: open sizes, other types, metadata, old inputs."""
    value = helper.make_tensor_value_info
    weights = [
        numpy_helper.from_array(np.ones((4, 3), np.float32), "w"),
        numpy_helper.from_array(np.float16(2), "scalar"),
        numpy_helper.from_array(np.ones((5, 5), np.int8), "quantised"),
        helper.make_tensor("none", TensorProto.FLOAT, [0, 7], []),
    ]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["a"], ["y"]), helper.make_node("Identity", ["m"], ["z"])],
        "odd",
        [
            value("a", TensorProto.FLOAT, ["batch", 3, None, 640]),
            value("m", TensorProto.BOOL, []),
            value("w", TensorProto.FLOAT, [4, 3]),
        ],
        [value("y", TensorProto.FLOAT, None), value("z", TensorProto.BOOL, [])],
        changes.get("weights", weights),
    )
    opsets = [helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    names = {"names": "{0: 'Käse', 1: 'b'}", "task": "segment"}
    helper.set_model_props(model, names)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("form", ["a", "b", "g", "odd", "bundled"])
def test_onnx_as_the_onnx_package_reads_it(tmp_path: Path, form: Any) -> None:
    if form == "bundled":
        path = Path(__file__).parents[2] / "tasks" / "zoo" / "shapes.onnx"
    elif form == "odd":
        path = write_onnx(tmp_path / "odd.onnx")
    else:
        path = write_model(tmp_path, form).with_suffix(".onnx")
    found = read_graph(path)
    assert found == plain(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == [each.name for each in found.inputs]
    assert [each.name for each in session.get_outputs()] == [each.name for each in found.outputs]


def test_what_the_odd_graph_says(tmp_path: Path) -> None:
    found = read_graph(write_onnx(tmp_path / "odd.onnx"))
    assert list(map(str, found.inputs)) == ["a (?×3×?×640 float)", "m ( bool)"]
    assert found.metadata["names"] == "{0: 'Käse', 1: 'b'}"


def test_weights_in_a_file_of_their_own_are_named(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m.onnx")
    onnx.save(
        onnx.load(path), path, save_as_external_data=True, location="m.data", size_threshold=0
    )
    with pytest.raises(ModelError, match=r"m\.onnx keeps weights in m\.data: export it as one"):
        read_graph(path)


def test_no_prefix_of_a_network_is_one(tmp_path: Path) -> None:
    data = write_onnx(tmp_path / "odd.onnx").read_bytes()
    cut = tmp_path / "cut.onnx"
    whole = 0
    for length in range(len(data)):
        cut.write_bytes(data[:length])
        whole += _sentence_or_graph(cut)
    # The graph stands before metadata and opsets: only a cut between those goes unnoticed.
    assert whole <= 5


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_files_are_a_sentence_or_a_graph(tmp_path: Path, data: st.DataObject) -> None:
    original = bytearray(write_onnx(tmp_path / "odd.onnx").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(original) - 1))
        end = at + data.draw(st.integers(0, 3))
        original[at:end] = data.draw(st.binary(max_size=8))
    path = tmp_path / "damaged.onnx"
    path.write_bytes(original)
    _sentence_or_graph(path)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=400))
def test_any_bytes_are_a_sentence_or_a_graph(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "any.onnx"
    path.write_bytes(data)
    _sentence_or_graph(path)


def _sentence_or_graph(path: Path) -> bool:
    """Whether it is a graph; that it is none is said in one line that names the file."""
    try:
        graph = read_graph(path)
    except ModelError as exc:
        said = str(exc)
    else:
        assert graph.inputs
        assert graph.outputs
        return True
    assert "\n" not in said
    assert str(path) in said
    return False


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no inputs"),
        (b"this is no network", "not a whole one"),
        (b"\x3a\x00", "no inputs"),
        (b"\x3a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", "not a whole one"),
        (b"\x08\x01" * 400_000, "no inputs"),
        (b"\x3a\x04\x2a\x02\x42\x00" + b"\x00" * 9, "no inputs|not a whole one"),
    ],
    ids=["empty", "text", "empty graph", "negative length", "a million fields", "field zero"],
)
def test_what_is_no_network_is_one_sentence(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(data)
    start = time.monotonic()
    with pytest.raises(ModelError, match=words):
        read_graph(path)
    assert time.monotonic() - start < 20


def test_a_file_of_no_end_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "x.onnx").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ModelError, match="over 2 GiB"):
        read_graph(tmp_path / "x.onnx")


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "x.tflite").write_bytes(b"")
    with pytest.raises(ModelError, match=r"no \.onnx and no \.xml"):
        read_graph(tmp_path / "x.tflite")
    with pytest.raises(ModelError, match="there is no model file"):
        read_graph(tmp_path / "nowhere.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ModelError, match="there is no model file"):
        read_graph(tmp_path / "folder.onnx")
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(ModelError, match="there is no model file"):
        read_graph(tmp_path / "pipe.onnx")


def write_ir(folder: Path, form: Any = "b") -> tuple[Path, Any]:
    """An OpenVINO IR of a canned graph as Ultralytics writes them, and the runtime's module."""
    pytest.importorskip("openvino")
    from worker import openvino_runtime

    model = openvino_runtime.ov.convert_model(write_model(folder, form).with_suffix(".onnx"))
    model.set_rt_info("YOLO", ["model_info", "model_type"])
    model.set_rt_info(["traffic_light", "car"], ["model_info", "labels"])
    path = folder / "canned.xml"
    openvino_runtime.ov.save_model(model, path)
    return path, openvino_runtime


@pytest.mark.parametrize("form", ["a", "b", "g"])
def test_ir_as_openvino_reads_it(tmp_path: Path, form: Any) -> None:
    from tasks.environment import WorkerSettings

    path, engine = write_ir(tmp_path, form)
    found = read_graph(path)
    loaded = engine.load(str(path), "f32", WorkerSettings(threads=1))
    for ours, theirs in ((found.inputs, loaded.inputs), (found.outputs, loaded.outputs)):
        assert [each[:2] for each in ours] == [(each.name, each.shape) for each in theirs]
    assert found.metadata == {"labels": "traffic_light car", "model_type": "YOLO"}
    path.with_suffix(".bin").unlink()
    with pytest.raises(ModelError, match=r"there is no model file .*canned\.bin"):
        read_graph(path)


def test_an_xml_is_looked_into_by_openvino_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = write_ir(tmp_path)
    monkeypatch.setitem(sys.modules, "worker.openvino_runtime", None)
    with pytest.raises(ModelError, match=r"canned\.xml .* pip install 'maskmill\[worker,openvino"):
        read_graph(path)


# Ten entities, each of ten of the one before: ten billion letters, if it were let.
ENTITIES = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
BOMB = f'<!DOCTYPE net [<!ENTITY e0 "aaaaaaaaaa">{ENTITIES}]><net version="11">&e9;</net>'


@pytest.mark.parametrize(
    "text",
    [BOMB, "<net>", '<net version="11">', "<html></html>", '<net version="11"></net>'],
    ids=["entities", "cut", "cut later", "other", "empty"],
)
def test_an_xml_that_is_no_network(tmp_path: Path, text: str) -> None:
    pytest.importorskip("openvino")
    path = tmp_path / "x.xml"
    path.write_text(text)
    path.with_suffix(".bin").write_bytes(b"")
    assert not _sentence_or_graph(path)
