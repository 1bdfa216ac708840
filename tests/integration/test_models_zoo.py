"""`models reproduce` with the demo model, and models in a folder that a team shares."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from storage import get, put
from tasks.cards import ModelError
from tasks.shelf import ZOO, find_model, user_folder, zoo_cards
from tests.graphs import write_model
from tests.running import MASKMILL, environment, maskmill

DEMO = Path(__file__).parents[2] / "worker" / "demo"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """The demo model's AP on the bundled images, by the commands that reproduce is made of."""
    out = tmp_path_factory.mktemp("measured")
    truth = DEMO / "instances.json"
    assert maskmill("annotate", truth, "-m", "shapes", "-o", out).code == 0
    report = maskmill("eval", out, "--gt", truth, "--json").events[0]
    return {"box_ap": report["box"]["ap"], "mask_ap": report["mask"]["ap"]}


def write_copy(shelf: Path, figures: dict[str, float], on: str = "the bundled scenes") -> None:
    """The demo model under another name, whose card says these figures."""
    shelf.mkdir()
    shutil.copy(ZOO / "shapes.onnx", shelf)
    said = [f"{name.removesuffix('_ap')} = {value}" for name, value in figures.items()]
    ap = ", ".join([*said, f'on = "{on}"'])
    card, ended, _ = (ZOO / "shapes.toml").read_text().partition("ap = [")
    assert ended
    card = card.replace('name = "shapes"', 'name = "copy"')
    (shelf / "copy.toml").write_text(f"{card}ap = [{{ {ap} }}]\n")


def reproduce(shelf: Path, coco: Path, *more: object) -> tuple[int, dict, str]:
    command = ("models", "reproduce", "copy", "--coco", coco, *more)
    ran = maskmill(*command, "--json", cwd=shelf, MASKMILL_MODELS=str(shelf))
    return ran.code, ran.events[-1], ran.err


def test_as_its_card_says(tmp_path: Path, measured: dict[str, float]) -> None:
    write_copy(tmp_path / "shelf", {name: value - 0.004 for name, value in measured.items()})
    code, said, err = reproduce(tmp_path / "shelf", DEMO)
    assert code == 0, err
    assert said["event"] == "reproduced"
    assert said["same"] is True
    assert (said["images"], said["left_out"]) == (20, 0)
    assert {row["figure"]: row["difference"] for row in said["comparison"]} == {
        "box_ap": pytest.approx(0.004, abs=1e-9),
        "mask_ap": pytest.approx(0.004, abs=1e-9),
    }
    assert said["measured"]["mask_ap"] == measured["mask_ap"]
    assert (tmp_path / "shelf" / "reproduce-copy" / "instances.json").is_file(), "the job is kept"
    code, said, _ = reproduce(tmp_path / "shelf", DEMO, "--tolerance", 0.003)
    assert (code, said["same"]) == (5, False)


def test_cocos_own_layout_and_the_words_for_a_person(
    tmp_path: Path, measured: dict[str, float]
) -> None:
    coco = tmp_path / "coco"
    (coco / "annotations").mkdir(parents=True)
    shutil.copy(DEMO / "instances.json", coco / "annotations" / "instances_val2017.json")
    shutil.copytree(DEMO, coco / "val2017", ignore=shutil.ignore_patterns("*.json"))
    write_copy(tmp_path / "shelf", {"mask_ap": round(measured["mask_ap"], 3) + 0.1})
    ran = maskmill(
        *("models", "reproduce", "copy", "--coco", coco, "-o", tmp_path / "out", "--limit", 5),
        *("--tolerance", 0.5),
        MASKMILL_MODELS=str(tmp_path / "shelf"),
    )
    assert ran.code == 0, ran.err
    told = [line.split(maxsplit=1) for line in ran.out.splitlines()]
    said = [("images", "5"), ("left_out", "15"), ("source", "published"), ("same", "True")]
    for words in (*said, ("on", "the bundled scenes")):
        assert [*words] in told


def test_a_card_without_figures_has_nothing_to_differ_from(tmp_path: Path) -> None:
    write_copy(tmp_path / "shelf", {})
    code, said, err = reproduce(tmp_path / "shelf", DEMO, "--limit", 3)
    assert code == 0, err
    assert said["same"] is None


def test_a_folder_that_is_no_coco(tmp_path: Path) -> None:
    write_copy(tmp_path / "shelf", {})
    code, said, _ = reproduce(tmp_path / "shelf", tmp_path)
    assert code == 2
    assert "holds neither annotations/instances_val2017.json" in said["message"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own: nothing is cached, nothing is pulled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path


def share(folder: str, made: Path, *, sha256: str | None = None, below: str = "canned/") -> bytes:
    """A canned model into a shared folder, with the card that names its hash."""
    data = made.with_suffix(".onnx").read_bytes()
    found = hashlib.sha256(data).hexdigest() if sha256 is None else sha256
    put(f"{folder}/{made.name}", made.read_bytes() + f'sha256 = "{found}"\n'.encode())
    put(f"{folder}/{below}canned.onnx", data)
    return data


@pytest.fixture(params=["s3", "file"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    shared = (
        f"{request.getfixturevalue('moto_s3')}/team/models"
        if request.param == "s3"
        else (tmp_path / "team").as_uri()
    )
    monkeypatch.setenv("MASKMILL_MODELS", shared)
    return shared


@pytest.mark.parametrize("below", ["canned/", ""])
def test_a_shared_model_is_found_by_name_and_cached(home: Path, folder: str, below: str) -> None:
    data = share(folder, write_model(home / "made", "a"), below=below)
    put(f"{folder}/deep/er.toml", b"no card of this folder")
    names = {path.stem for path in zoo_cards()}
    assert {"canned", "shapes", "yolact-edge-mobilenetv2"} <= names
    assert "er" not in names
    assert not list((home / "cache").rglob("*.onnx")), "a list downloads nothing"
    model = find_model("canned")
    expected = home / "cache" / "maskmill" / "models" / model.sha256 / "canned.onnx"
    assert Path(model.path) == expected.resolve()
    assert expected.read_bytes() == data
    put(f"{folder}/{below}canned.onnx", b"other bytes, which nobody asks for any more")
    assert find_model("canned") == model
    assert find_model("shapes").path == str(ZOO / "shapes.onnx")
    assert user_folder() == home / "data" / "maskmill" / "models"


def test_it_annotates_lists_and_is_pulled(home: Path, folder: str) -> None:
    share(folder, write_model(home / "made", "a"))
    listed = maskmill("models", "list", "--json").events[0]["models"]
    assert next(each for each in listed if each["name"] == "canned")["shared"] is True
    pulled = maskmill("models", "pull", "canned", "--json").events[-1]
    assert pulled["ready"].startswith(str(home / "cache"))
    ran = maskmill("annotate", DEMO, "--limit", 2, "-m", "canned", "-o", home / "out")
    assert ran.code == 0, ran.err


def test_many_at_once_share_one_cache(home: Path, folder: str) -> None:
    share(folder, write_model(home / "made", "a"))
    code = "from tasks.shelf import find_model; print(find_model('canned').sha256)"
    python = str(Path(MASKMILL).parent / "python")
    running = [
        subprocess.Popen([python, "-c", code], env=environment(), stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    said = {each.communicate(timeout=60)[0] for each in running}
    assert len(said) == 1
    assert [each.returncode for each in running] == [0] * 4
    cache = home / "cache" / "maskmill" / "models"
    assert sorted(path.name for path in cache.iterdir()) == sorted(
        ["cards", said.pop().decode().strip()]
    ), "nothing is left of the way there"


def test_what_a_shared_card_must_say(home: Path, folder: str) -> None:
    made = write_model(home / "made", "a")
    share(folder, made, sha256="")
    with pytest.raises(ModelError, match=r"names no sha256 of canned\.onnx, which models in"):
        find_model("canned")
    share(folder, made, sha256="0" * 64)
    with pytest.raises(ModelError, match=r"canned.onnx is not the one that its card names"):
        find_model("canned")
    assert not list((home / "cache").rglob("*.onnx")), "what is refused is not cached"
    put(f"{folder}/gone.toml", get(f"{folder}/canned.toml").replace(b"canned", b"gone"))
    with pytest.raises(ModelError, match=r"neither gone/gone.onnx nor gone.onnx"):
        find_model("gone")


def test_a_shared_folder_that_is_not_there(moto_s3: str, home: Path) -> None:
    ran = maskmill("models", "list", MASKMILL_MODELS="s3://no-such-bucket-of-ours/models")
    assert ran.code == 4
    assert "is a bucket that does not exist" in ran.err
