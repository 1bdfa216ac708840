"""TFLite delegates: found on each board, given their options, not trusted before they prove it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.cards import ModelError
from tasks.environment import SettingError, WorkerSettings
from tasks.shelf import find_model
from tests.graphs_tflite import write_yolact
from tests.pictures import write_folder
from tests.running import maskmill
from tests.tflite_file import TfliteFile
from worker.model import LoadedModel, load_model
from worker.tflite_runtime import PACKAGES, find_delegate, load, operators_taken, unlike

INTERPRETERS = [name for name, package in PACKAGES.items() if find_spec(package)]
DEQUANTIZE = "6"  # by its number among the builtin operators
BOARDS = {"i.MX8MP": "vx", "i.MX93": "ethosu", "i.MX95": "neutron"}

every_interpreter = pytest.mark.parametrize("interpreter", INTERPRETERS)
Board = Callable[..., Path]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tests/delegates/npu.c, compiled."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no C compiler: apt install gcc")
    source = Path(__file__).parents[1] / "delegates" / "npu.c"
    made = tmp_path_factory.mktemp("delegate") / "libnpu_delegate.so"
    command = [compiler, "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", str(source)]
    subprocess.run([*command, "-o", str(made), "-lm"], check=True)
    return made


@pytest.fixture
def board(tmp_path: Path, library: Path) -> Board:
    """A board's file system with the test's delegate under the names of its own."""

    def made(soc: str, *names: str) -> Path:
        root = tmp_path / "board"
        (root / "sys/devices/soc0").mkdir(parents=True)
        (root / "sys/devices/soc0/soc_id").write_text(f"{soc}\n")
        (root / "usr/lib").mkdir(parents=True)
        for name in names:
            shutil.copy(library, root / f"usr/lib/lib{name}_delegate.so")
        return root

    return made


@pytest.fixture
def npu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """How the test's delegate behaves, see its source."""

    def behave(**how: str) -> None:
        for name, value in how.items():
            monkeypatch.setenv(f"NPU_{name.upper()}", value)

    behave(takes=DEQUANTIZE, tells="right")
    return behave


def loaded(tmp_path: Path, **settings: Any) -> LoadedModel:
    card = write_yolact(tmp_path / "model", "int8")
    return load_model(find_model(str(card)), WorkerSettings(threads=1, **settings))


def converted(path: Path, operator: str) -> Path:
    """What a converter for an NPU leaves of a network: one operator that only its delegate runs."""
    file = TfliteFile()
    image = file.tensor("image", (1, 64, 64, 3), "int8", (4 / 255, 0))
    told = [file.tensor("proto", (1, 16, 16, 8)), file.tensor("mask", (1, 64, 8))]
    told += [file.tensor("scores", (1, 5, 64)), file.tensor("boxes", (1, 64, 4))]
    file.operator(operator, [image], told)
    path.write_bytes(file.written([image], told))
    return path


def loaded_converted(tmp_path: Path, operator: str, **settings: Any) -> LoadedModel:
    card = write_yolact(tmp_path / "model", "int8")
    converted(card.with_suffix(".tflite"), operator)
    return load_model(find_model(str(card)), WorkerSettings(threads=1, **settings))


@every_interpreter
def test_a_delegate_that_computes_right_is_used(
    tmp_path: Path,
    library: Path,
    npu: Callable[..., None],
    interpreter: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    on_npu = loaded(tmp_path, delegate=str(library), tflite=interpreter)
    on_cpu = loaded(tmp_path, delegate="none", tflite=interpreter)
    assert (on_npu.runtime.device, on_cpu.runtime.device) == ("npu", "CPU")
    assert f"the delegate {library} took 4 of 16 operators" in caplog.text
    image = np.random.default_rng(0).integers(-128, 128, (1, 64, 64, 3)).astype(np.int8)
    told, wanted = (each.runtime.run({"image": image}) for each in (on_npu, on_cpu))
    for name, value in wanted.items():
        np.testing.assert_array_equal(told[name], value)


@every_interpreter
@pytest.mark.parametrize(
    ("tells", "reason"),
    [
        ("garbage", r"is wrong: its output \w+ is not the CPU's \(concordance -?0\.0"),
        ("zero", r"is wrong: its output \w+ is not the CPU's"),
        ("nan", r"is wrong: its output \w+ is not finite"),
        ("failure", "fails: the NPU does not answer"),
    ],
)
def test_one_that_does_not_is_refused_or_left_for_the_cpu(
    tmp_path: Path,
    library: Path,
    npu: Callable[..., None],
    interpreter: str,
    tells: str,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    npu(tells=tells)
    asked = {"delegate": str(library), "tflite": interpreter}
    with pytest.raises(ModelError, match=rf"{library}.* {reason}.*MASKMILL_DELEGATE_UNFIT=cpu"):
        loaded(tmp_path, **asked)
    assert loaded(tmp_path, delegate_unfit="cpu", **asked).runtime.device == "CPU"
    assert "the CPU computes" in caplog.text


@pytest.mark.parametrize(
    ("how", "settings", "reason"),
    [
        ({"refuses": "no NPU in this machine"}, {}, "cannot be had: .*no NPU in this machine"),
        ({}, {"delegate_options": {"shade": "blue"}}, "cannot be had: .*no such option: shade"),
        ({"takes": "CONV_9D"}, {}, "took none of .*canned.tflite's operators"),
    ],
    ids=["it refuses to be made", "it knows no such option", "it takes nothing"],
)
def test_one_that_cannot_be_used_is_refused_or_left_for_the_cpu(
    tmp_path: Path,
    library: Path,
    npu: Callable[..., None],
    how: dict[str, str],
    settings: dict[str, Any],
    reason: str,
) -> None:
    npu(**how)
    with pytest.raises(ModelError, match=reason):
        loaded(tmp_path, delegate=str(library), **settings)
    on_cpu = loaded(tmp_path, delegate=str(library), delegate_unfit="cpu", **settings)
    assert on_cpu.runtime.device == "CPU"


# The interpreters' own clean-up of a library that could not be opened
@pytest.mark.filterwarnings("ignore:Exception ignored in.*Delegate.__del__")
def test_a_library_that_is_none_or_is_not_there(tmp_path: Path) -> None:
    no_library = tmp_path / "libnpu_delegate.so"
    with pytest.raises(ModelError, match=rf"no delegate {no_library}; give auto, none or a"):
        loaded(tmp_path, delegate=str(no_library))
    no_library.write_bytes(b"no library")
    with pytest.raises(ModelError, match="cannot be had"):
        loaded(tmp_path, delegate=str(no_library))


def test_a_library_named_from_here(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader would look for a bare name in the system's folders."""
    monkeypatch.chdir(library.parent)
    for name in (library.name, f"./{library.name}"):
        found = find_delegate(WorkerSettings(delegate=name))
        assert found is not None
        assert found.library == str(library)


@pytest.mark.parametrize(("soc", "name"), BOARDS.items())
def test_each_board_has_its_delegate(board: Board, soc: str, name: str) -> None:
    settings = WorkerSettings(board_root=str(board(soc, *BOARDS.values())))
    found = find_delegate(settings)
    assert found is not None
    assert found.name == name
    assert found.library == f"{settings.board_root}/usr/lib/lib{name}_delegate.so"


def test_a_board_without_its_library_computes_on_the_cpu_and_says_so(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    assert find_delegate(WorkerSettings(board_root=str(board("i.MX93", "vx")))) is None
    assert "libethosu_delegate.so is not there: the CPU computes" in caplog.text


def test_other_machines_have_none(
    tmp_path: Path, board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    assert find_delegate(WorkerSettings(board_root=str(tmp_path / "nothing"))) is None
    assert find_delegate(WorkerSettings(board_root=str(board("i.MX6Q", "vx")))) is None
    asked = WorkerSettings(board_root=str(tmp_path / "board"), delegate="none")
    assert find_delegate(asked) is None
    assert not caplog.text


def test_options_and_the_drivers_cache_reach_the_delegate(
    tmp_path: Path, board: Board, npu: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VIV_VX_ENABLE_CACHE_GRAPH_BINARY", "VIV_VX_CACHE_BINARY_GRAPH_DIR"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    npu(log=str(tmp_path / "log"))
    root = str(board("i.MX8MP", "vx"))
    found = loaded(tmp_path, board_root=root, delegate_options={"device_id": "7"})
    assert found.runtime.device == "vx"
    cache = tmp_path / "cache/maskmill/vx"
    assert (tmp_path / "log").read_text() == f"device_id=7\ncache 1 {cache}\n"
    assert cache.is_dir()


@pytest.mark.parametrize(
    ("text", "options"), [("", {}), ("a=1", {"a": "1"}), (" a=1  b=x=y ", {"a": "1", "b": "x=y"})]
)
def test_options_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, text: str, options: dict[str, str]
) -> None:
    monkeypatch.setenv("MASKMILL_DELEGATE_OPTIONS", text)
    assert WorkerSettings().delegate_options == options
    for wrong in ("a", "=1", "a=1 b"):
        monkeypatch.setenv("MASKMILL_DELEGATE_OPTIONS", wrong)
        with pytest.raises(SettingError, match="takes KEY=VALUE"):
            WorkerSettings()


@every_interpreter
@pytest.mark.parametrize(("operator", "name"), [("ethos-u", "ethosu"), ("NeutronGraph", "neutron")])
def test_a_converted_network_needs_its_delegate(
    tmp_path: Path,
    board: Board,
    npu: Callable[..., None],
    interpreter: str,
    operator: str,
    name: str,
) -> None:
    npu(takes=operator, tells="garbage")  # which is all that a test can have of it, and is finite
    path = converted(tmp_path / "converted.tflite", operator)
    for root in (tmp_path, board("i.MX8MP", "vx")):
        settings = WorkerSettings(board_root=str(root), tflite=interpreter)
        with pytest.raises(ModelError, match=rf"{path} was converted for .*lib{name}_delegate.so"):
            load(str(path), "f32", settings)


@every_interpreter
@pytest.mark.parametrize(("soc", "operator"), [("i.MX93", "ethos-u"), ("i.MX95", "NeutronGraph")])
def test_with_it_no_parity_can_be_had_but_its_outputs_are_looked_at(
    tmp_path: Path,
    board: Board,
    npu: Callable[..., None],
    interpreter: str,
    soc: str,
    operator: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    npu(takes=operator, tells="garbage")
    asked = {"board_root": str(board(soc, BOARDS[soc])), "tflite": interpreter}
    found = loaded_converted(tmp_path, operator, **asked)
    assert found.runtime.device == BOARDS[soc]
    assert "the CPU cannot run this file, so nothing was compared" in caplog.text
    assert "took 1 of 1 operators" in caplog.text
    for tells, reason in (("zero", "is 0.0 everywhere"), ("nan", "is not finite")):
        npu(tells=tells)
        with pytest.raises(ModelError, match=reason):
            loaded_converted(tmp_path, operator, **asked)
        with pytest.raises(ModelError, match="was converted for"):  # the CPU is no way out
            loaded_converted(tmp_path, operator, delegate_unfit="cpu", **asked)


def test_a_network_that_was_not_converted_is_not_left_to_neutron_in_silence(
    tmp_path: Path, board: Board, npu: Callable[..., None]
) -> None:
    asked = {"board_root": str(board("i.MX95", "neutron"))}
    with pytest.raises(ModelError, match=r"has no operator NeutronGraph.*convert it with"):
        loaded(tmp_path, **asked)
    assert loaded(tmp_path, delegate_unfit="cpu", **asked).runtime.device == "CPU"


def node(name: str, inputs: list[int], outputs: list[int]) -> dict[str, Any]:
    return {"op_name": name, "inputs": inputs, "outputs": outputs}


def test_operators_are_counted_through_the_parts_that_a_delegate_took() -> None:
    """Tensors 0 → 1 → 2 → 3 → 4 → 5, and 1 → 6 → 4 beside them; -1 is an input left out."""
    graph = [node("A", [0, -1], [1]), node("B", [1], [2]), node("C", [2], [3]), node("D", [1], [6])]
    graph += [node("E", [3, 6], [4]), node("F", [4], [5])]
    assert operators_taken(graph) == (0, 6)
    assert operators_taken([*graph, node("DELEGATE", [1], [3])]) == (2, 6)
    assert operators_taken([*graph, node("DELEGATE", [1], [4])]) == (4, 6)
    two = [node("DELEGATE", [0], [1]), node("DELEGATE", [3, 6], [5])]
    assert operators_taken([*graph, *two]) == (3, 6)
    assert operators_taken([*graph, node("DELEGATE", [0], [5])]) == (6, 6)


def test_what_is_like_the_cpus_output() -> None:
    random = np.random.default_rng(0)
    wanted = [{"scores": random.beta(0.1, 2, (50, 20)).astype(np.float32)} for _ in range(3)]

    def problem(change: Callable[[np.ndarray], np.ndarray]) -> str:
        return unlike([{"scores": change(each["scores"])} for each in wanted], wanted)

    quantum = 1 / 256
    for right in (
        lambda a: a,
        lambda a: np.rint(a / quantum) * quantum,
        lambda a: a + random.normal(0, quantum, a.shape),
        lambda a: a.astype(np.float16).astype(np.float32),
    ):
        assert problem(right) == ""
    for wrong in (
        lambda a: a[::-1],
        lambda a: a.T.reshape(a.shape),
        lambda a: a * 2,
        lambda a: a + 0.2,
        lambda a: -a,
        lambda a: np.zeros_like(a),
        lambda a: random.permuted(a),
        lambda a: np.where(a > 0.5, np.nan, a),
    ):
        assert problem(wrong)


def test_annotate_records_the_delegate(
    tmp_path: Path, library: Path, npu: Callable[..., None]
) -> None:
    card, photos = write_yolact(tmp_path / "model", "int8"), write_folder(tmp_path / "photos", 3)
    out, log = tmp_path / "out", tmp_path / "log"
    words = ["annotate", photos, "-m", card, "-o", out, "--delegate", library]
    ran = maskmill(*words, "--delegate-option", "device_id=3", NPU_LOG=str(log))
    assert ran.code == 0, ran.err
    (shard,) = (out / "shards").rglob("*.json")
    assert json.loads(shard.read_bytes())["produced_by"]["delegate"] == "npu"
    assert log.read_text().startswith("device_id=3\n")
    wrong = maskmill(*words, "--overwrite", NPU_TELLS="garbage")
    assert wrong.code == 2
    assert "is not the CPU's" in wrong.err
    cpu = maskmill(*words, "--overwrite", NPU_TELLS="garbage", MASKMILL_DELEGATE_UNFIT="cpu")
    assert cpu.code == 0, cpu.err
    assert "the CPU computes" in cpu.err


def test_doctor_says_what_a_board_runs_and_how_fast(
    tmp_path: Path, board: Board, npu: Callable[..., None]
) -> None:
    card = write_yolact(tmp_path / "model", "int8")
    root = board("i.MX8MP", "vx")
    ran = maskmill("doctor", "-m", card, MASKMILL_BOARD_ROOT=str(root))
    assert ran.code == 0, ran.err
    lines = [" ".join(line.split()) for line in ran.out.splitlines()]
    assert {"board imx8mp", f"delegate {root}/usr/lib/libvx_delegate.so"} <= set(lines)
    (tried,) = (line for line in lines if "canned.tflite" in line)
    assert " vx, 4 of 16 operators: fetch " in tried
    assert ", inference " in tried


DEMO = Path(__file__).parents[2] / "worker" / "demo"


def test_the_gate_runs_what_the_job_will_run(
    tmp_path: Path, library: Path, npu: Callable[..., None]
) -> None:
    command = ("annotate", DEMO, "-m", "shapes", "--runtime", "tflite", "--limit", 2)
    more = ("--gate-parity", "--delegate", library, "-o", tmp_path / "out", "--json")
    ran = maskmill(*command, *more)
    assert ran.code == 0, ran.err
    (_, its), *_ = (each["ways"] for each in ran.events if each["event"] == "parity")
    assert its["made_by"][0]["delegate"] == "npu"


def test_parity_of_a_delegate_is_never_that_of_the_cpu(
    library: Path, npu: Callable[..., None]
) -> None:
    npu(tells="garbage")
    variables = {"MASKMILL_DELEGATE": str(library), "MASKMILL_DELEGATE_UNFIT": "cpu"}
    words = ("--limit", 1, "--only", "int8 litert,int8 litert delegate")
    ran = maskmill("parity", "shapes", DEMO, *words, **variables)
    assert ran.code == 2
    assert "is wrong: its output" in ran.err
