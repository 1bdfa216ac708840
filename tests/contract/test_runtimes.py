"""One suite over every runtime: what the narrow protocol promises holds for each."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tasks.cards import ModelError
from tasks.environment import WorkerSettings
from tasks.graph_file import Tensor
from tasks.shelf import find_model
from tests.graphs import write_model
from tests.graphs_tflite import write_quantised, write_types, write_yolact
from worker import tflite_runtime
from worker.model import RunFailed, Runtime
from worker.tflite_runtime import PACKAGES

HEIGHT, WIDTH = 4, 6


def as_is(graph: Path) -> Path:
    return graph


def as_ir(graph: Path) -> Path:
    from worker.openvino_runtime import ov

    made = graph.with_suffix(".xml")
    ov.save_model(ov.Core().read_model(str(graph)), str(made), compress_to_fp16=False)
    return made


def as_tflite(graph: Path) -> Path:
    """The same graph, by its name."""
    if graph.stem == "canned":
        return write_yolact(graph.parent / "tflite", "float").with_suffix(".tflite")
    sizes = (-1, -1) if graph.stem == "open" else (HEIGHT, WIDTH)
    return write_types(graph.with_suffix(".tflite"), *sizes)


def rename_operator(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"NonZero", b"NonHero"))


def make_custom(path: Path) -> None:
    """A .tflite has numbers for the operators that it shares with all others."""
    write_types(path, HEIGHT, WIDTH, where="NonHero")


@dataclass(frozen=True)
class Kind:
    """A runtime, and how a graph comes into a file that it reads."""

    engine: str
    converted: Callable[[Path], Path]
    tflite: str = "auto"
    make_unknown: Callable[[Path], None] = rename_operator
    picture: tuple[int, ...] = (1, 3, 64, 64)  # that the canned YOLACT takes

    def load(self, path: str, compute: Any, threads: int) -> Runtime:
        settings = WorkerSettings(threads=threads, tflite=self.tflite)
        runtime: Runtime = import_module(f"worker.{self.engine}").load(path, compute, settings)
        return runtime

    def open(self, graph: Path, compute: str = "f32", threads: int = 1) -> Runtime:
        return self.load(str(self.converted(graph)), compute, threads)


# Two environments have TFLite's interpreters, see the Makefile: one has no tflite-runtime, which
# does not work with numpy 2, and the other no OpenVINO.
INTERPRETERS = [name for name, package in PACKAGES.items() if find_spec(package)]
KINDS = {"onnxruntime": Kind("onnx_runtime", as_is)}
if find_spec("openvino") or INTERPRETERS == ["litert"]:
    KINDS["openvino on onnx"] = Kind("openvino_runtime", as_is)
    KINDS["openvino on its own ir"] = Kind("openvino_runtime", as_ir)
for name in INTERPRETERS:
    KINDS[name] = Kind("tflite_runtime", as_tflite, name, make_custom, (1, 64, 64, 3))
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
    if kind.engine == "tflite_runtime":  # its interpreters prepare a graph for one size
        with pytest.raises(RunFailed, match="Dimension mismatch"):
            runtime.run(feeds(0, 5, 7))
        return
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
        lambda data: data[: len(data) - len(data) // 50],
    ],
    ids=["text", "empty", "truncated", "without its end"],
)
def test_a_broken_file_is_one_sentence_that_names_it(
    kind: Kind, graph: Path, spoil: Callable[[bytes], bytes]
) -> None:
    path = kind.converted(graph)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ModelError) as refused:
        kind.load(str(path), "f32", 1)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@every_runtime
def test_a_missing_file_is_refused(kind: Kind, graph: Path) -> None:
    path = kind.converted(graph)
    path.unlink()
    with pytest.raises(ModelError, match=path.name):
        kind.load(str(path), "f32", 1)


@every_runtime
def test_an_operator_that_nobody_knows_is_refused(kind: Kind, graph: Path) -> None:
    path = kind.converted(graph)
    kind.make_unknown(path)
    with pytest.raises(ModelError, match="NonHero"):
        kind.load(str(path), "f32", 1)


@every_runtime
def test_the_number_of_threads_does_not_change_a_bit(kind: Kind, tmp_path: Path) -> None:
    write_model(tmp_path, "a")
    image = np.random.default_rng(0).normal(0, 1, kind.picture).astype(np.float32)
    one, two, all_of_them = (
        kind.open(tmp_path / "canned.onnx", threads=n).run({"image": image}) for n in (1, 2, 0)
    )
    for name, value in one.items():
        assert value.tobytes() == two[name].tobytes() == all_of_them[name].tobytes(), name


# In a process of its own: both runtimes keep pools that others have started.
COUNTING = """
import os, sys
import msgspec
import numpy as np
from importlib import import_module
from importlib.metadata import version
from tasks.environment import WorkerSettings
engine, tflite, path, threads = sys.argv[1:]
settings = WorkerSettings(threads=int(threads), tflite=tflite)
runtime = import_module(f"worker.{engine}").load(path, "f32", settings)
before = len(os.listdir("/proc/self/task"))
runtime.run({"image": np.zeros(runtime.inputs[0].shape, np.float32)})
print(max(before, len(os.listdir("/proc/self/task"))))
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core takes one thread in any case")
@every_runtime
def test_the_number_of_threads_is_the_one_asked_for(kind: Kind, tmp_path: Path) -> None:
    write_model(tmp_path, "a")
    path = kind.converted(tmp_path / "canned.onnx")

    def threads(count: int) -> int:
        asked = [kind.engine, kind.tflite, str(path), str(count)]
        command = [sys.executable, "-c", COUNTING, *asked]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert threads(2) == threads(1) + 1


every_interpreter = pytest.mark.parametrize("interpreter", INTERPRETERS)


@every_interpreter
@pytest.mark.parametrize(
    ("dtype", "quantised"), [("int8", (0.037, -5)), ("uint8", (1 / 255, 0)), ("int16", (0.001, 0))]
)
def test_quantised_outputs_are_told_as_what_they_stand_for(
    interpreter: str, dtype: str, quantised: tuple[float, int], tmp_path: Path
) -> None:
    path = write_quantised(tmp_path / "q.tflite", dtype, *quantised)
    runtime = Kind("tflite_runtime", as_is, interpreter).open(path)
    scale, zero = np.float32(quantised[0]), quantised[1]
    assert runtime.inputs == (Tensor("image", (1, 5, 7, 3), dtype, (float(scale), zero)),)
    assert set(runtime.outputs) == {
        Tensor("flat", (1, 105), dtype, (float(scale), zero)),
        Tensor("floats", (1, 105), "float"),
    }
    limits = np.iinfo(dtype)
    image = np.linspace(limits.min, limits.max, 105).round().astype(dtype).reshape(1, 5, 7, 3)
    told = runtime.run({"image": image})
    assert {each.dtype for each in told.values()} == {np.dtype(np.float32)}
    wanted = (image.astype(np.float64) - zero).reshape(1, 105) * scale
    np.testing.assert_array_equal(told["flat"], wanted.astype(np.float32))
    np.testing.assert_array_equal(told["flat"], told["floats"])


@every_interpreter
def test_what_runs_it_says_which_interpreter_it_is(interpreter: str, graph: Path) -> None:
    runtime = Kind("tflite_runtime", as_tflite, interpreter).open(graph)
    assert runtime.version == f"{interpreter} {version(PACKAGES[interpreter].replace('_', '-'))}"


@pytest.mark.parametrize(
    ("machine", "here", "wanted"),
    [
        ("aarch64", ("tflite_runtime", "ai_edge_litert"), "tflite-runtime"),
        ("x86_64", ("tflite_runtime", "ai_edge_litert"), "litert"),
        ("aarch64", ("ai_edge_litert",), "litert"),
        ("x86_64", ("tflite_runtime",), "tflite-runtime"),
    ],
)
def test_boards_use_their_own_interpreter_and_others_the_faster_one(
    monkeypatch: pytest.MonkeyPatch, machine: str, here: tuple[str, ...], wanted: str
) -> None:
    monkeypatch.setattr(tflite_runtime.platform, "machine", lambda: machine)
    monkeypatch.setattr(tflite_runtime, "find_spec", lambda name: name in here or None)
    assert tflite_runtime.chosen(WorkerSettings()) == wanted


def test_an_interpreter_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tflite_runtime, "find_spec", lambda name: None)
    for asked in ("auto", "tflite-runtime"):
        with pytest.raises(ModelError, match=r"tflite-runtime.* not installed: pip install"):
            tflite_runtime.chosen(WorkerSettings(tflite=asked))


@pytest.mark.parametrize("engine", ["onnx", "tflite"])
def test_only_openvino_has_another_precision(engine: str) -> None:
    with pytest.raises(ModelError, match=f"bf16 is a precision of openvino, not of {engine}"):
        find_model("shapes", engine, "bf16")
