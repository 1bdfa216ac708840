"""One suite over every runtime: what the narrow protocol promises holds for each."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tasks.cards import ModelError
from tasks.graph_file import Tensor
from tests.graphs import write_model
from worker import onnx_runtime, openvino_runtime
from worker.openvino_runtime import ov
from worker.runtimes import RunFailed, Runtime
from worker.settings import WorkerSettings

HEIGHT, WIDTH = 4, 6


def as_is(graph: Path) -> Path:
    return graph


def as_ir(graph: Path) -> Path:
    made = graph.with_suffix(".xml")
    ov.save_model(ov.Core().read_model(str(graph)), str(made), compress_to_fp16=False)
    return made


@dataclass(frozen=True)
class Kind:
    """A runtime, and how a graph comes into a file that it reads."""

    load: Callable[[str, Any, WorkerSettings], Runtime]
    converted: Callable[[Path], Path]

    def open(self, graph: Path, compute: str = "f32", threads: int = 1) -> Runtime:
        path = self.converted(graph)
        return self.load(str(path), compute, WorkerSettings(threads=threads))


KINDS = {
    "onnxruntime": Kind(onnx_runtime.load, as_is),
    "openvino on onnx": Kind(openvino_runtime.load, as_is),
    "openvino on its own ir": Kind(openvino_runtime.load, as_ir),
}
every_runtime = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


def write_graph(path: Path, *, open_size: bool = False) -> Path:
    """Outputs of every type and of a size known only at run time, from two inputs."""
    sides: list[int | str] = ["height", "width"] if open_size else [HEIGHT, WIDTH]
    shape = [1, 3, *sides]
    nodes = [
        helper.make_node("Mul", ["image", "two"], ["twice"]),
        helper.make_node("Add", ["twice", "shift"], ["shifted"]),
        helper.make_node("Cast", ["shifted"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Greater", ["image", "zero"], ["positive"]),
        helper.make_node("Cast", ["image"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Abs", ["image"], ["size"]),
        helper.make_node("Cast", ["size"], ["bytes"], to=TensorProto.UINT8),
        helper.make_node("NonZero", ["positive"], ["places"]),
        helper.make_node("Identity", ["whole"], ["also_whole"]),
    ]

    def made(name: str, kind: int, size: list[Any]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, size)

    outputs = [
        made("whole", TensorProto.INT64, shape),
        made("shifted", TensorProto.FLOAT, shape),
        made("positive", TensorProto.BOOL, shape),
        made("half", TensorProto.FLOAT16, shape),
        made("bytes", TensorProto.UINT8, shape),
        made("places", TensorProto.INT64, [4, "found"]),
        made("also_whole", TensorProto.INT64, shape),
    ]
    inputs = [made("image", TensorProto.FLOAT, shape), made("shift", TensorProto.FLOAT, [1])]
    constants = [
        helper.make_tensor("two", TensorProto.FLOAT, [], [2.0]),
        helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
    ]
    graph = helper.make_graph(nodes, "types", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def expected(image: np.ndarray, shift: np.ndarray) -> dict[str, np.ndarray]:
    shifted = image * 2 + shift
    found = {
        "whole": np.trunc(shifted),
        "shifted": shifted,
        "positive": image > 0,
        "half": image.astype(np.float16),
        "bytes": np.trunc(np.abs(image)),
        "places": np.stack(np.nonzero(image > 0)),
        "also_whole": np.trunc(shifted),
    }
    return {name: value.astype(np.float32) for name, value in found.items()}


def feeds(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    image = random.uniform(-100, 100, (1, 3, height, width)).astype(np.float32)
    return {"image": image, "shift": np.array([0.25], np.float32)}


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return write_graph(tmp_path / "types.onnx")


@every_runtime
def test_tensors_are_told_by_name_shape_and_type(kind: Kind, graph: Path) -> None:
    runtime = kind.open(graph)
    shape = (1, 3, HEIGHT, WIDTH)
    assert set(runtime.inputs) == {Tensor("image", shape, "float"), Tensor("shift", (1,), "float")}
    assert set(runtime.outputs) == {
        Tensor("whole", shape, "int64"),
        Tensor("shifted", shape, "float"),
        Tensor("positive", shape, "bool"),
        Tensor("half", shape, "float16"),
        Tensor("bytes", shape, "uint8"),
        Tensor("places", (4, None), "int64"),
        Tensor("also_whole", shape, "int64"),
    }
    assert runtime.device == "CPU"


@every_runtime
def test_outputs_are_float_arrays_that_equal_numpy(kind: Kind, graph: Path) -> None:
    runtime, fed = kind.open(graph), feeds()
    kept = {name: value.copy() for name, value in fed.items()}
    found, wanted = runtime.run(fed), expected(**fed)
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        assert value.dtype == np.float32, name
        np.testing.assert_array_equal(value, wanted[name], name)
        np.testing.assert_array_equal(fed.get(name, 0), kept.get(name, 0))


@every_runtime
def test_open_sizes_are_none_and_each_picture_has_its_own(kind: Kind, tmp_path: Path) -> None:
    runtime = kind.open(write_graph(tmp_path / "open.onnx", open_size=True))
    shapes = {each.name: each.shape for each in (*runtime.inputs, *runtime.outputs)}
    assert shapes["image"] == shapes["shifted"] == (1, 3, None, None)
    for seed, (height, width) in enumerate([(5, 7), (2, 9), (5, 7), (1, 1)]):
        fed = feeds(seed, height, width)
        for name, value in expected(**fed).items():
            np.testing.assert_array_equal(runtime.run(fed)[name], value, name)


@every_runtime
def test_results_outlive_the_next_run(kind: Kind, graph: Path) -> None:
    runtime = kind.open(graph)
    fed = feeds(1)
    first = runtime.run(fed)
    second = runtime.run(feeds(2))
    fed["image"][:] = 7
    for name, value in expected(**feeds(1)).items():
        np.testing.assert_array_equal(first[name], value, name)
        np.testing.assert_array_equal(second[name], expected(**feeds(2))[name], name)


@every_runtime
@pytest.mark.parametrize(
    "fed",
    [
        {"image": np.zeros((1, 3, HEIGHT, WIDTH + 1), np.float32), "shift": feeds()["shift"]},
        {"image": np.zeros((1, 3, WIDTH, HEIGHT), np.float32), "shift": feeds()["shift"]},
        {"image": np.zeros((3, HEIGHT, WIDTH), np.float32), "shift": feeds()["shift"]},
        {"image": np.zeros((1, 3, HEIGHT, WIDTH), np.float32)},
    ],
    ids=["too wide", "turned", "without its batch", "an input missing"],
)
def test_inputs_that_do_not_fit_fail_that_run_only(
    kind: Kind, graph: Path, fed: dict[str, np.ndarray]
) -> None:
    runtime = kind.open(graph)
    runtime.run(feeds(1))
    with pytest.raises(RunFailed) as failed:
        runtime.run(fed)
    assert "\n" not in str(failed.value)
    np.testing.assert_array_equal(runtime.run(feeds(2))["shifted"], expected(**feeds(2))["shifted"])


@every_runtime
@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"this is no network at all",
        lambda data: b"",
        lambda data: data[: len(data) // 2],
    ],
    ids=["text", "empty", "truncated"],
)
def test_a_broken_file_is_one_sentence_that_names_it(
    kind: Kind, graph: Path, spoil: Callable[[bytes], bytes]
) -> None:
    path = kind.converted(graph)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ModelError) as refused:
        kind.load(str(path), "f32", WorkerSettings(threads=1))
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@every_runtime
def test_a_missing_file_is_refused(kind: Kind, graph: Path) -> None:
    path = kind.converted(graph)
    path.unlink()
    with pytest.raises(ModelError, match=path.name):
        kind.load(str(path), "f32", WorkerSettings(threads=1))


@every_runtime
def test_an_operator_that_nobody_knows_is_refused(kind: Kind, graph: Path) -> None:
    path = kind.converted(graph)
    path.write_bytes(path.read_bytes().replace(b"NonZero", b"NonHero"))
    with pytest.raises(ModelError, match="NonHero"):
        kind.load(str(path), "f32", WorkerSettings(threads=1))


@every_runtime
def test_the_number_of_threads_does_not_change_a_bit(kind: Kind, tmp_path: Path) -> None:
    write_model(tmp_path, "a")
    image = np.random.default_rng(0).normal(0, 1, (1, 3, 64, 64)).astype(np.float32)
    one, two, all_of_them = (
        kind.open(tmp_path / "canned.onnx", threads=n).run({"image": image}) for n in (1, 2, 0)
    )
    for name, value in one.items():
        assert value.tobytes() == two[name].tobytes() == all_of_them[name].tobytes(), name


# In a process of its own: both runtimes keep pools that others have started.
COUNTING = """
import os, sys
import numpy as np
from importlib import import_module
from worker.settings import WorkerSettings
engine, path, threads = sys.argv[1:]
runtime = import_module(engine).load(path, "f32", WorkerSettings(threads=int(threads)))
before = len(os.listdir("/proc/self/task"))
runtime.run({"image": np.zeros((1, 3, 64, 64), np.float32)})
print(max(before, len(os.listdir("/proc/self/task"))))
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core takes one thread in any case")
@every_runtime
def test_the_number_of_threads_is_the_one_asked_for(kind: Kind, tmp_path: Path) -> None:
    write_model(tmp_path, "a")
    path = kind.converted(tmp_path / "canned.onnx")

    def threads(count: int) -> int:
        command = [sys.executable, "-c", COUNTING, kind.load.__module__, str(path), str(count)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert threads(2) == threads(1) + 1
