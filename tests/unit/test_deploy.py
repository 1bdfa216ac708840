"""What deploy/ and docker-compose.yml say agrees with the code, and with each other.

The published schemas and linters are run by `deploy/validate`, by hand: they need packages.
"""

from __future__ import annotations

import configparser
import importlib.util
import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from tasks.broker import queues_for
from tasks.cli import app
from tasks.supervisor import LAST_WORDS_S

try:
    import tomllib
except ModuleNotFoundError:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "docker" / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGETS = {"producer", "worker", "worker-openvino", "worker-edge", "recipes", "flower"}
SETTLE_S = 5.0  # what a stop may take beyond the grace and the last words

FILES = [
    ROOT / "docker-compose.yml",
    *(
        path
        for path in sorted(DEPLOY.rglob("*"))
        if path.is_file() and "recipes" not in path.relative_to(DEPLOY).parts
    ),
]


def manifests() -> list[dict[str, Any]]:
    files = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    return [each for file in files for each in yaml.safe_load_all(file.read_text())]


def manifest(kind: str, name: str) -> dict[str, Any]:
    (found,) = (
        m for m in manifests() if (m["kind"], m.get("metadata", {}).get("name")) == (kind, name)
    )
    return found


def container(name: str) -> dict[str, Any]:
    (found,) = manifest("Deployment", name)["spec"]["template"]["spec"]["containers"]
    return dict(found)


def unit(name: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "systemd" / name)
    return parser["Service"]


def pins(path: Path) -> dict[str, str]:
    """Versions by name, of the lines that hold for Linux and Python 3.11 or any."""
    found = re.findall(r"^([a-z0-9-]+)==(\S+)(?: ; (.*))?$", path.read_text(), re.MULTILINE)
    return {name: version for name, version, marker in found if not marker}


def seconds(text: str) -> float:
    (number,) = re.findall(r"^(\d+)s$", text)
    return float(number)


def stages() -> list[tuple[str, str]]:
    """Each stage's name and what it is made from, in order."""
    return [(name, base) for base, name in re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.M)]


COMMANDS = [
    *((f"compose {n}", s["command"]) for n, s in COMPOSE["services"].items() if "command" in s),
    *((f"kubernetes {n}", container(n)["command"]) for n in ("worker", "beat")),
    *(
        (path.name, shlex.split(unit(path.name)["ExecStart"]))
        for path in sorted((DEPLOY / "systemd").glob("*.service"))
    ),
    *(
        ("Dockerfile", yaml.safe_load(cmd))
        for cmd in re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.M)
    ),
]
OURS = [(place, words) for place, words in COMMANDS if Path(words[0]).name == "maskmill"]
BEATS = [(place, words) for place, words in COMMANDS if "beat" in words]


def test_every_variable_is_one_that_the_code_reads() -> None:
    sources = "".join(
        path.read_text()
        for part in ("storage", "tasks", "worker")
        for path in (ROOT / part).rglob("*.py")
    )
    known = set(re.findall(r'"(MASKMILL_[A-Z0-9_]+)"', sources))
    known |= {f"MASKMILL_{name}" for name in re.findall(r'_read\("([A-Z0-9_]+)"', sources)}
    for path in FILES:
        used = set(re.findall(r"\bMASKMILL_[A-Z0-9_]+", path.read_text()))
        assert used <= known, f"{path.relative_to(ROOT)}: {sorted(used - known)}"


@pytest.mark.parametrize(("place", "words"), OURS, ids=lambda v: v if isinstance(v, str) else "")
def test_our_commands_exist_with_their_options(place: str, words: list[str]) -> None:
    command = typer.main.get_command(app)
    assert hasattr(command, "commands")
    verb = command.commands[words[1]] if len(words) > 1 else command
    verb.make_context(words[1] if len(words) > 1 else "maskmill", words[2:])


def test_each_place_that_starts_a_fleet_starts_workers_and_one_beat() -> None:
    assert {place for place, _ in OURS} >= {"compose worker", "kubernetes worker", "Dockerfile"}
    assert [place for place, _ in BEATS] == [
        "compose beat",
        "kubernetes beat",
        "maskmill-beat.service",
    ]
    from celery.bin.beat import beat

    for _, words in BEATS:
        assert Path(words[0]).name == "celery"
        assert words[1:4] == ["-A", "worker.app", "beat"]
        beat.make_context("beat", words[4:], resilient_parsing=True)
    assert importlib.util.find_spec("worker.app")
    assert "deploy" not in COMPOSE["services"]["beat"]
    assert manifest("Deployment", "beat")["spec"]["replicas"] == 1
    assert manifest("Deployment", "beat")["spec"]["strategy"]["type"] == "Recreate"


def test_a_stop_leaves_time_for_the_grace() -> None:
    spec = manifest("Deployment", "worker")["spec"]["template"]["spec"]
    service = unit("maskmill-worker@.service")
    cases = [
        (
            COMPOSE["services"]["worker"]["command"],
            seconds(COMPOSE["services"]["worker"]["stop_grace_period"]),
        ),
        (container("worker")["command"], float(spec["terminationGracePeriodSeconds"])),
        (shlex.split(service["ExecStart"]), seconds(service["TimeoutStopSec"])),
    ]
    for words, limit in cases:
        grace = float(words[words.index("--grace") + 1])
        assert limit >= grace + LAST_WORDS_S + SETTLE_S, words
    assert service["KillMode"] == "mixed"


def test_scaling_watches_the_queues_of_the_workers_that_it_scales() -> None:
    words = container("worker")["command"]
    assert "--target" not in words
    queues = queues_for([words[words.index("--runtime") + 1]], ("cloud",))
    scaled = manifest("ScaledObject", "worker")["spec"]
    assert scaled["scaleTargetRef"]["name"] == "worker"
    assert [trigger["metadata"]["listName"] for trigger in scaled["triggers"]] == queues
    for trigger in scaled["triggers"]:
        assert trigger["authenticationRef"]["name"] == "redis"
        assert all(isinstance(value, str) for value in trigger["metadata"].values())
    assert manifest("TriggerAuthentication", "redis")
    assert scaled["minReplicaCount"] >= 1  # somebody takes what comes to the queue `celery`
    assert "replicas" not in manifest("Deployment", "worker")["spec"]


def test_every_image_target_exists_and_is_installed_and_made_from_earlier_stages() -> None:
    names = [name for name, _ in stages()]
    assert len(set(names)) == len(names)
    assert set(names) >= TARGETS
    for place, (_, base) in enumerate(stages()):
        assert base.startswith("python:") or base in names[:place]
    for source in re.findall(r"COPY --from=(\S+)", DOCKERFILE):
        assert source in names
    install = (DEPLOY / "docker" / "install").read_text()
    cases = set(re.findall(r"^    ([a-z-]+)\)", install, re.M))
    assert cases == TARGETS
    assert set(re.findall(r"RUN deploy/docker/install (\S+) ", DOCKERFILE)) == TARGETS
    for service in COMPOSE["services"].values():
        if "build" in service:
            assert service["build"]["target"] in TARGETS
            assert (ROOT / service["build"]["dockerfile"]).is_file()


def test_what_the_images_copy_is_there_and_sent_to_the_builder() -> None:
    ignore = (ROOT / ".dockerignore").read_text().split("\n")
    assert "*" in ignore
    sent = tuple(line[1:] for line in ignore if line.startswith("!"))
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.M):
        for source in [word for word in line.split() if not word.startswith("--")][:-1]:
            assert (ROOT / source).exists(), source
            assert any(source == way or source.startswith(f"{way}/") for way in sent), source


def images() -> Iterator[str]:
    args = dict(re.findall(r"^ARG (\w+)=(\S+)$", DOCKERFILE, re.M))
    for _, base in stages():
        if base.startswith("python:"):
            yield re.sub(r"\$\{(\w+)\}", lambda found: args[found[1]], base)
    for service in COMPOSE["services"].values():
        yield service["image"]


@pytest.mark.parametrize("image", sorted(set(images())))
def test_images_are_pinned(image: str) -> None:
    name, _, tag = image.rpartition(":")
    assert name
    assert re.match(r"^\d+\.\d+", tag), "a tag that names a version"
    if name.startswith("maskmill-"):
        assert tag == PROJECT["version"]


def test_kubernetes_takes_the_version_of_this_project() -> None:
    kustomization = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())
    assert [each["newTag"] for each in kustomization["images"]] == [PROJECT["version"]]
    used = {container(name)["image"] for name in ("worker", "beat")}
    assert used == {each["name"] for each in kustomization["images"]}
    files = {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")}
    assert set(kustomization["resources"]) == files - {"kustomization.yaml", "secret.example.yaml"}


def test_the_images_have_supported_pythons() -> None:
    found = re.findall(r"^ARG (PYTHON\w*)=(3\.(\d+)\.\d+)$", DOCKERFILE, re.M)
    minors = {name: int(minor) for name, _, minor in found}
    least, below = map(int, re.findall(r"3\.(\d+)", PROJECT["requires-python"]))
    assert all(least <= minor < below for minor in minors.values())
    tflite = " ".join(PROJECT["optional-dependencies"]["tflite"])
    (limit,) = set(re.findall(r"python_version < '3\.(\d+)'", tflite))
    assert minors["PYTHON_EDGE"] < int(limit)


@pytest.mark.parametrize("name", ["edge.txt", "flower.txt"])
def test_one_fleet_has_one_celery(name: str) -> None:
    ours, theirs = pins(ROOT / "constraints.txt"), pins(DEPLOY / "docker" / name)
    for part in ("celery", "kombu", "redis", "billiard"):
        assert theirs[part] == ours[part]


def test_secrets_come_from_outside_and_all_are_explained() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    needed = set(re.findall(r"\$\{(\w+):\?", text))
    chosen = set(re.findall(r"\$\{(\w+):-", text))
    example = (DEPLOY / "env.example").read_text()
    given = dict(re.findall(r"^(\w+)=(.*)$", example, re.M))
    assert needed | chosen == set(given)
    assert {name for name, value in given.items() if not value} == needed
    secret = manifest("Secret", "maskmill")["stringData"]
    wanted = {
        each["valueFrom"]["secretKeyRef"]["key"]
        for name in ("worker", "beat")
        for each in container(name)["env"]
        if "valueFrom" in each
    }
    assert wanted == set(secret)
    keys = manifest("TriggerAuthentication", "redis")["spec"]["secretTargetRef"]
    assert {each["key"] for each in keys} <= set(secret)


def test_nothing_runs_as_root() -> None:
    users = {}
    for part in re.split(r"^FROM ", DOCKERFILE, flags=re.M)[1:]:
        base, name = re.findall(r"^(\S+) AS (\S+)", part)[0]
        users[name] = (re.findall(r"^USER (\S+)$", part, re.M) or [users.get(base)])[-1]
    assert {users[target] for target in TARGETS} == {"10001:10001"}
    for name in ("worker", "beat"):
        pod = manifest("Deployment", name)["spec"]["template"]["spec"]["securityContext"]
        own = container(name)["securityContext"]
        assert pod["runAsNonRoot"]
        assert own["readOnlyRootFilesystem"]
        assert not own["allowPrivilegeEscalation"]
    for path in (DEPLOY / "systemd").glob("*.service"):
        assert unit(path.name)["User"] == "maskmill"


def test_every_worker_is_probed_by_its_heartbeat() -> None:
    for part in re.split(r"^FROM ", DOCKERFILE, flags=re.M)[1:]:
        if re.match(r"\S+ AS worker", part):
            assert "HEALTHCHECK" in part
            assert '"maskmill-alive"' in part
    for probe in ("startupProbe", "livenessProbe"):
        assert container("worker")[probe]["exec"]["command"] == ["maskmill-alive"]
    assert "alive /usr/local/bin/maskmill-alive" in DOCKERFILE


@pytest.mark.parametrize(
    ("age_s", "arguments", "alive"),
    [
        (0, [], True),
        (50, [], True),
        (70, [], False),
        (None, [], False),  # no heartbeat yet
        (300, ["{folder}", "10"], True),
        (700, ["{folder}", "10"], False),
    ],
)
def test_the_probe(tmp_path: Path, age_s: int | None, arguments: list[str], alive: bool) -> None:
    beat = tmp_path / "heartbeat"
    if age_s is not None:
        beat.touch()
        os.utime(beat, (time.time() - age_s,) * 2)
    ran = subprocess.run(
        [DEPLOY / "docker" / "alive", *(each.format(folder=tmp_path) for each in arguments)],
        env={"PATH": os.environ["PATH"], "MASKMILL_HEARTBEAT_FILE": str(beat)},
    )
    assert (ran.returncode == 0) == alive
