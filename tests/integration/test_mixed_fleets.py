"""Fleets whose workers differ: by what they are for, by their engine, by their speed."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tasks.folder import every_attempt, read_job
from tasks.opening import usual_shard_size
from tasks.shelf import ZOO, digest, find_model
from tests.faults import SHARED, attempts, ends, folder_of, left
from tests.fleet import Fleet, Worker, fleet, until
from tests.graphs import write_model
from tests.pictures import write_folder
from tests.running import maskmill
from worker.openvino_runtime import ov

DEMO = Path(__file__).parents[2] / "worker" / "demo"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("photos"), 12)


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), "b")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, photos: Path, card: Path) -> bytes:
    out = tmp_path_factory.mktemp("local") / "out"
    assert maskmill("annotate", photos, "-m", card, "-o", out).code == 0
    return (out / "instances.json").read_bytes()


@pytest.fixture
def fleet_here(tmp_path: Path) -> Iterator[Fleet]:
    with fleet(tmp_path / "fleet") as made:
        yield made


def board_tree(folder: Path, soc_id: str) -> Path:
    file = folder / "sys/devices/soc0/soc_id"
    file.parent.mkdir(parents=True)
    file.write_text(soc_id + "\n")
    return folder


def test_a_target_is_served_by_the_machines_that_it_names(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: Path, undisturbed: bytes
) -> None:
    command = ("submit", photos, "-m", card, SHARED, "--shard-size", 6)
    targets = ("cloud", "imx93", "edge", "roof")
    for target in targets:
        ran = fleet_here.run(*command, "-o", tmp_path / target, "--target", target)
        assert ran.code == 0, ran.err
    cloud = fleet_here.worker("--target", "cellar")
    assert fleet_here.await_merged(tmp_path / "cloud") == undisturbed
    (said,) = until(lambda: list(fleet_here.state.present()))
    assert said.targets == ("cellar", "cloud")
    assert [left(tmp_path / target) for target in targets] == [0, 2, 2, 2]
    assert cloud.stop() == 0
    root = board_tree(tmp_path / "board", "i.MX93")
    fleet_here.worker_variables = {"MASKMILL_BOARD_ROOT": str(root), "MASKMILL_DELEGATE": "none"}
    fleet_here.worker("--target", "roof")
    for target in targets[1:]:
        assert fleet_here.await_merged(tmp_path / target) == undisturbed
    said = until(lambda: [w for w in fleet_here.state.present() if "roof" in w.targets])
    assert said[0].targets == ("roof", "imx93", "edge")


@pytest.mark.parametrize("command", ["submit", "worker"])
def test_a_target_is_a_name(fleet_here: Fleet, tmp_path: Path, command: str) -> None:
    words = ("nowhere/", "-m", "shapes", "-o", tmp_path / "out", SHARED)
    ran = fleet_here.run(command, *(words if command == "submit" else ()), "--target", "i.MX 93")
    assert ran.code == 2
    assert "'i.MX 93'" in ran.err
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def write_two_builds(folder: Path, card: Path) -> Path:
    """A card with the network as ONNX and as OpenVINO IR; the card's path."""
    folder.mkdir()
    onnx = folder / "first.onnx"
    onnx.write_bytes(card.with_suffix(".onnx").read_bytes())
    ov.save_model(ov.convert_model(onnx), folder / "second.xml", compress_to_fp16=False)
    text = card.read_text().replace("canned.onnx", "first.onnx")
    both = folder / "both.toml"
    both.write_text(text + '\n[[builds]]\nfile = "second.xml"\n')
    return both


def slow(seconds: float) -> dict[str, object]:
    return {"who": "child", "call": "worker.shard:infer", "always": True, "sleep": seconds}


def kinds_of(output: Path) -> Counter[tuple[str, str]]:
    folder, job = folder_of(output), read_job(str(output))
    assert job is not None
    made = (folder.read_shard(shard).produced_by for shard in range(job.counts.shards))
    return Counter((each.engine, each.sha256) for each in made)


def test_builds_of_one_model_share_a_mixed_job(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: Path
) -> None:
    both = write_two_builds(tmp_path / "both", card)
    workers = {}
    for engine in ("onnx", "openvino"):
        workers[engine] = fleet_here.worker("--runtime", engine, fault=slow(0.1))
    until(lambda: len(list(fleet_here.state.present())) == 2, logs=fleet_here.logs)
    out = tmp_path / "out"
    command = ("submit", photos, "-m", both, "-o", out, SHARED, "--shard-size", 1)
    ran = fleet_here.run(*command, "--mixed", "--wait", "--json")
    assert ran.code == 0, ran.err + fleet_here.logs()
    found = kinds_of(out)
    assert set(found) == {("onnx", digest(both.parent / "first.onnx"))} | {
        ("openvino", digest(both.parent / "second.xml"))
    }, "each worker takes the first build that its engine runs"
    assert (ran.events[-1]["images"], ran.events[-1]["failures"]) == (12, 0)
    run = json.loads((out / "run.json").read_bytes())
    assert run["mixed"]
    assert {each["engine"] for each in run["produced_by"]} == {"onnx", "openvino"}
    sound = fleet_here.run("doctor", out)
    assert sound.code == 0, sound.out
    assert sound.out.count("made by ") == 2
    other = fleet_here.run(*command)
    assert other.code == 2
    assert "alternates" in other.err
    assert fleet_here.run(*command, "--mixed").code == 0


def found_in(dataset: bytes) -> dict[str, list[object]]:
    """What is said of each image, by its file name."""
    content = json.loads(dataset)
    names = {each["id"]: each["file_name"] for each in content["images"]}
    found: dict[str, list[object]] = {name: [] for name in names.values()}
    for each in content["annotations"]:
        found[names[each["image_id"]]].append((each["category_id"], each["score"], each["bbox"]))
    return found


def test_the_cloud_and_a_board_share_a_job(fleet_here: Fleet, tmp_path: Path) -> None:
    """One worker with the float build on ONNX Runtime, one with the int8 build on TFLite: each
    image is what its shard's builder finds when it is alone."""
    builds = {"onnx": "shapes.onnx", "tflite": "shapes-int8.tflite"}
    alone = {}
    for engine in builds:
        fleet_here.worker("--runtime", engine, "-m", "shapes", fault=slow(0.1))
        out = tmp_path / engine
        assert maskmill("annotate", DEMO, "-m", "shapes", "--runtime", engine, "-o", out).code == 0
        alone[engine] = found_in((out / "instances.json").read_bytes())
    until(lambda: len(list(fleet_here.state.present())) == 2, logs=fleet_here.logs)
    out = tmp_path / "out"
    command = ("submit", DEMO, "-m", "shapes", "-o", out, SHARED, "--shard-size", 1)
    ran = fleet_here.run(*command, "--mixed", "--wait")
    assert ran.code == 0, ran.err + fleet_here.logs()
    assert set(kinds_of(out)) == {(e, digest(ZOO / name)) for e, name in builds.items()}
    together = found_in((out / "instances.json").read_bytes())
    folder = folder_of(out)
    for number in range(20):
        shard = folder.read_shard(number)
        made, name = shard.produced_by, shard.images[0].file_name
        assert together[name] == alone[made.engine][name]
        assert made.precision == {"onnx": "fp32", "tflite": "int8"}[made.engine]
    assert alone["onnx"] != alone["tflite"]


def test_a_mixed_job_waits_for_the_engines_that_it_has(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: Path
) -> None:
    """A build that does not load on one worker is passed over there for the next."""
    both = write_two_builds(tmp_path / "both", card)
    whole = (both.parent / "second.xml").read_bytes()
    (both.parent / "second.xml").write_bytes(whole.replace(b'version="11"', b'version="2"'))
    fleet_here.worker("--runtime", "openvino")
    out = tmp_path / "out"
    command = ("submit", photos, "-m", both, "-o", out, SHARED, "--mixed", "--wait", "--json")
    ran = fleet_here.run(*command, "--runtime", "onnx")
    assert ran.code == 0, ran.err + fleet_here.logs()
    assert ran.events[0]["shards"] == 1
    assert set(kinds_of(out)) == {("openvino", digest(both.parent / "first.onnx"))}
    said = fleet_here.workers[0].said()
    assert said.count("second.xml with openvino") == 1


def test_two_kinds_of_worker_on_one_plain_job_are_told(
    fleet_here: Fleet, tmp_path: Path, photos: Path, card: Path, undisturbed: bytes
) -> None:
    fleet_here.worker(fault=slow(0.1))
    other = {"who": "child", "set": {"worker.onnx_runtime:OnnxRuntime.version": "0.0.1"}}
    fleet_here.worker(fault=[slow(0.1), other])
    until(lambda: len(list(fleet_here.state.present())) == 2, logs=fleet_here.logs)
    out = tmp_path / "out"
    command = ("submit", photos, "-m", card, "-o", out, SHARED, "--shard-size", 1, "--wait")
    ran = fleet_here.run(*command)
    assert ran.code == 0, ran.err
    assert (out / "instances.json").read_bytes() == undisturbed
    assert "made by     onnx 0.0.1 fp32" in ran.out
    assert not json.loads((out / "run.json").read_bytes())["mixed"]
    (event,) = fleet_here.run("doctor", out, "--json").events
    assert event["sound"]
    assert len(event["kinds"]) == 2


def test_mixed_needs_something_to_mix(fleet_here: Fleet, tmp_path: Path, card: Path) -> None:
    both = write_two_builds(tmp_path / "both", card)
    lone = both.parent / "second.xml"
    lone.with_suffix(".toml").write_text(both.read_text().replace("first.onnx", "gone.onnx"))
    ran = fleet_here.run("submit", tmp_path, "-m", lone, "-o", tmp_path / "out", SHARED, "--mixed")
    assert ran.code == 2
    assert "--mixed needs a second build" in ran.err


@pytest.mark.parametrize(
    ("engines", "target", "size"),
    [
        (["onnx"], "any", 64),
        (["onnx"], "edge", 16),
        (["openvino"], "imx93", 16),
        (["onnx", "tflite"], "cloud", 16),
        (["tflite"], "any", 16),
        (["onnx"], "roof", 64),
    ],
)
def test_a_shard_that_a_board_may_take_is_smaller(
    engines: list[str], target: str, size: int
) -> None:
    model = find_model("shapes")
    models = [msgspec.structs.replace(model, engine=each) for each in engines]
    assert usual_shard_size(models, target) == size


def under_way(output: Path, worker: Worker) -> list[str]:
    """The attempts that this worker has open."""
    mine = f":{worker.process.pid}:"
    found = every_attempt(folder_of(output))
    return [uri for uri, each in found if mine in each.worker and not each.ended]


@pytest.mark.parametrize("paused", [True, False])
def test_a_slow_worker_does_not_hold_the_end_of_a_job(
    tmp_path: Path, photos: Path, card: Path, undisturbed: bytes, paused: bool
) -> None:
    out = tmp_path / "out"
    with fleet(tmp_path / "fleet", MASKMILL_SLOW_SHARD_S="1") as made:
        laggard = made.worker(fault=slow(3.0 if paused else 20.0))
        command = ("submit", photos, "-m", card, "-o", out, SHARED, "--shard-size", 2)
        assert made.run(*command).code == 0
        (attempt,) = until(lambda: under_way(out, laggard), logs=made.logs)
        if paused:
            laggard.signal_child(signal.SIGSTOP)
        made.worker()
        watched = made.run("status", out, "--watch")
        assert watched.code == 0, watched.err + made.logs()
        assert (out / "instances.json").read_bytes() == undisturbed
        assert under_way(out, laggard) == [attempt], "it is held to the end"
        assert set(attempts(out).values()) == {1, 2}
        assert attempts(out)[attempt.split("/")[-2]] == 2, "one extra copy of the one shard"
        if paused:
            laggard.signal_child(signal.SIGCONT)
        until(lambda: not under_way(out, laggard), what="the slow one lets go", logs=made.logs)
        assert ends(out) == {"committed": 6, "released": 1}
        assert "was done by another worker" in laggard.said()
        assert "Traceback" not in laggard.said()
        assert made.run("doctor", out).code == 0
        assert laggard.stop() == 0


def test_a_worker_of_one_engine_warms_the_build_that_it_runs(fleet_here: Fleet) -> None:
    absent = {"who": "child", "call": "worker.onnx_runtime:load", "raises": "ImportError"}
    fleet_here.worker("--runtime", "tflite", "-m", "shapes", fault=absent)
    (said,) = until(lambda: list(fleet_here.state.present()), logs=fleet_here.logs)
    assert said.models == ("shapes",)
