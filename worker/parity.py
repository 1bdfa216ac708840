"""`maskmill parity`: one model's builds, runtimes and precisions against each other."""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import product
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import msgspec

from tasks.annotate import work_off
from tasks.cards import Model, ModelError, is_here
from tasks.environment import SettingError, board
from tasks.exits import GATE_FAILED, OK, Said, choose_face
from tasks.folder import Folder, read_run
from tasks.inputs import InputError
from tasks.opening import sources
from tasks.records import Selection, Wishes
from tasks.shelf import builds_at, find_model, model_at
from worker.evaluate import Record, compare, measure
from worker.tflite_runtime import PACKAGES

BOUNDS = "matched=0.98,mask_iou=0.95"
THRESHOLD = 0.3
GATE_IMAGES = 16
_AT_LEAST = ("matched", "mask_iou")
_BOUNDED = (*_AT_LEAST, "score_drift", "class_flips", "ap_loss")
_COLUMNS = {"matched": ".2%", "mask_iou": ".4f", "score_drift": ".4f", "score_drift_max": ".3f"}
_COLUMNS |= {"class_flips": "d", "box_ap": ".3f", "mask_ap": ".3f", "ap_loss": ".4f"}


class Way(NamedTuple):
    """One way to run a model here."""

    name: str
    model: Model
    variables: Mapping[str, str] = {}  # of the environment, for what no option names


def ways(name: str) -> dict[str, Way]:
    """Every way in which this machine can run a model; the card's first build leads."""
    path, card, builds = builds_at(name)
    found: dict[str, Way] = {}
    for build, place in builds:
        if place is None:
            continue
        for engine in filter(is_here, build.engines):
            for way in _ways_of(model_at(card, build, place, engine)):
                own = way.name if way.name not in found else f"{build.file}:{way.name}"
                found[own] = way._replace(name=own)
    if not found:
        raise ModelError(f"no build of {card.name} ({path}) is here and can be run")
    return found


def _ways_of(model: Model) -> Iterator[Way]:
    precision, engine = model.build.precision, model.engine
    if engine == "tflite":
        yield from _tflite_ways(model)
        return
    yield Way(f"{precision} {engine}", model)
    if engine == "openvino" and precision == "fp32":
        yield Way(f"bf16 {engine}", msgspec.structs.replace(model, compute="bf16"))


def _tflite_ways(model: Model) -> Iterator[Way]:
    """By each interpreter, without and with the board's delegate or the one that is asked for."""
    asked = os.environ.get("MASKMILL_DELEGATE") or "auto"
    has_npu = board() if asked == "auto" else asked != "none"
    here = [which for which, package in PACKAGES.items() if find_spec(package)]
    for which, delegate in product(here, ("none", asked) if has_npu else ("none",)):
        name = f"{model.build.precision} {which}{'' if delegate == 'none' else ' delegate'}"
        variables = {"MASKMILL_TFLITE": which, "MASKMILL_DELEGATE": delegate}
        variables["MASKMILL_DELEGATE_UNFIT"] = "refuse"  # or the CPU is compared with itself
        yield Way(name, model, variables)


class Question(NamedTuple):
    """What the ways of a model are run over, and what counts."""

    inputs: Sequence[str]
    selection: Selection
    threshold: float  # instances that score at least this are counted
    truth: str = ""  # a COCO dataset


def parity(model: str, limit: int | None, only: str, require: str, **asked: Any) -> Said:
    """Run all ways over the inputs, compare each with the first, and judge them by `require`."""
    here, question = ways(model), Question(selection=Selection(limit=limit), **asked)
    names = [word.strip() for word in only.split(",") if word.strip()]
    return _judge(_chosen(here, names or [*here]), question, require, needed=bool(names))


def _judge(chosen: Sequence[Way], question: Question, require: str, *, needed: bool) -> Said:
    bounds = _bounds(require, question.truth)
    reports = _measure(chosen, question, needed=needed)
    faults = [f"{r['way']}: {fault}" for r in reports for fault in _faults(r, bounds)]
    event = {"event": "parity", "model": chosen[0].model.card.name, "ways": reports}
    lines = [*_table(reports), *faults]
    return Said(event | {"faults": faults}, lines, GATE_FAILED if faults else OK)


def gate(inputs: Sequence[str], selection: Selection, wishes: Wishes) -> Said | None:
    """Compare what a job is to run with the card's first build, on the first of its inputs: with
    the interpreter and the delegate that it would have. None where it is that build."""
    if "-" in inputs:
        raise InputError("--gate-parity reads the inputs twice, and standard input is read once")
    wanted = find_model(wishes.model, wishes.runtime, wishes.precision)
    first = next(iter(ways(wishes.model).values()))
    if (wanted, {}) == first[1:]:
        return None
    its = Way(f"{wanted.build.precision} {wanted.engine} as asked", wanted)
    most = min(GATE_IMAGES, selection.limit or GATE_IMAGES)
    limited = msgspec.structs.replace(selection, limit=most, only_unannotated=False)
    question = Question(inputs, limited, wishes.threshold or THRESHOLD)
    return _judge([first, its], question, BOUNDS, needed=True)


def _chosen(here: dict[str, Way], names: Sequence[str]) -> list[Way]:
    card = next(iter(here.values())).model.card
    unknown = [name for name in names if name not in here]
    if unknown:
        raise ModelError(f"{card.name} runs here as {', '.join(here)}, not as {unknown[0]!r}")
    if len(names) < 2:
        more = f"{', '.join(here)}, and as more with another build or another runtime installed"
        raise ModelError(f"there is nothing to compare {names[0]} with: {card.name} runs as {more}")
    return [here[name] for name in names]


def _bounds(require: str, truth: str) -> dict[str, float]:
    """`matched=0.98,mask_iou=0.95` or `none`."""
    if require == "none":
        return {}
    bounds = {}
    for word in require.split(","):
        found = re.fullmatch(rf"({'|'.join(_BOUNDED)})=(\d*\.?\d+)", word.strip())
        if found is None:
            known = f"as in {BOUNDS}, with one of {', '.join(_BOUNDED)}"
            raise SettingError(f"--require {word!r} is no NAME=NUMBER, {known}")
        bounds[found[1]] = float(found[2])
    if "ap_loss" in bounds and not truth:
        raise SettingError("--require ap_loss wants a ground truth: --gt FILE")
    return bounds


def _measure(chosen: Sequence[Way], question: Question, *, needed: bool) -> list[Record]:
    """A report on each way; on one that cannot run here, unless it is needed, why."""
    reports: list[Record] = []
    first: Folder | None = None
    with TemporaryDirectory() as output:
        for way in chosen:
            try:
                folder = _run(way, question, output)
            except ModelError as exc:
                if needed or first is None:
                    raise
                reports.append({"way": way.name, "cannot_run": str(exc)})
                continue
            first = first or folder
            report = _report(way, folder) | compare(first, folder, question.threshold)
            if question.truth:
                judged = measure(folder, question.truth)
                report |= {f"{kind}_ap": judged[kind]["ap"] for kind in ("box", "mask")}
                report["ap_loss"] = round(
                    (reports or [report])[0]["mask_ap"] - report["mask_ap"], 4
                )
            reports.append(report)
    return reports


def _run(way: Way, question: Question, output: str) -> Folder:
    """One way over all inputs, down to half the threshold: see `compare`."""
    print(f"{way.name} …", file=sys.stderr, flush=True)
    place = f"{output}/{way.name.replace(' ', '-').replace('/', '-')}"
    threshold = question.threshold / 2
    wishes = Wishes(model=way.model.card.name, output=place, threshold=threshold)
    given = sources(question.inputs, question.selection)
    before = dict(os.environ)
    try:
        os.environ.update(way.variables)
        return work_off(way.model, given, wishes, choose_face(as_json=False)).folder
    finally:
        os.environ.clear()
        os.environ.update(before)


def _report(way: Way, folder: Folder) -> Record:
    record: Record = read_run(folder) or {}
    if not record["images"]:
        raise InputError(f"none of the inputs could be annotated: {record['failures_by_kind']}")
    seconds = record["seconds_by_stage"].items()
    return {
        "way": way.name,
        "made_by": record["produced_by"],
        "failures": record["failures"],
        "ms_an_image": {stage: round(1000 * s / record["images"], 1) for stage, s in seconds},
    }


def _faults(report: Record, bounds: Mapping[str, float]) -> Iterator[str]:
    if "cannot_run" in report or not bounds:
        return
    for key, bound in bounds.items():
        value = report[key]
        if value < bound if key in _AT_LEAST else value > bound:
            how = "under" if key in _AT_LEAST else "over"
            yield f"{key} is {value:g}, {how} the bound of {bound:g}"
    if not report["instances"]:
        yield "nothing was found that scores enough to count: there was nothing to compare"
    if report["images_in_one_only"]:
        yield f"{report['images_in_one_only']} images failed in one of the two"


def _table(reports: Sequence[Record]) -> Iterator[str]:
    lead = reports[0]
    width = max(len(each["way"]) for each in reports)
    columns = {name: form for name, form in _COLUMNS.items() if name in lead}
    yield "  ".join([" " * width, *columns, "ms an image"])
    for each in reports:
        cells = [f"{each[key]:{len(key)}{form}}" for key, form in columns.items() if key in each]
        if "cannot_run" in each:
            cells = [f"cannot run here: {each['cannot_run']}"]
        stages = ", ".join(f"{stage} {ms:g}" for stage, ms in each.get("ms_an_image", {}).items())
        yield "  ".join([f"{each['way']:{width}}", *cells, stages])
    counted = lead["instances"] // 2
    yield f"each against {lead['way']}, on {lead['images']} images with {counted} instances"
