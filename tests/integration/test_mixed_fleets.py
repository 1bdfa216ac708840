"""Fleets whose workers differ: by what they are for, by their engine, by their speed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import SHARED, left
from tests.fleet import Fleet, fleet, until
from tests.graphs import write_model
from tests.pictures import write_folder
from tests.running import maskmill


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
    (said,) = until(lambda: list(fleet_here.state.workers()))
    assert said.targets == ("cellar", "cloud")
    assert [left(tmp_path / target) for target in targets] == [0, 2, 2, 2]
    assert cloud.stop() == 0
    root = {"set": {"tasks.board:ROOT": str(board_tree(tmp_path / "board", "i.MX93"))}}
    fleet_here.worker("--target", "roof", fault=root)
    for target in targets[1:]:
        assert fleet_here.await_merged(tmp_path / target) == undisturbed
    said = until(lambda: [w for w in fleet_here.state.workers() if "roof" in w.targets])
    assert said[0].targets == ("roof", "imx93", "edge")


@pytest.mark.parametrize("command", ["submit", "worker"])
def test_a_target_is_a_name(fleet_here: Fleet, tmp_path: Path, command: str) -> None:
    words = ("nowhere/", "-m", "shapes", "-o", tmp_path / "out", SHARED)
    ran = fleet_here.run(command, *(words if command == "submit" else ()), "--target", "i.MX 93")
    assert ran.code == 2
    assert "'i.MX 93'" in ran.err
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
