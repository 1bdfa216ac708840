"""`maskmill annotate`: from the person's words to a merged dataset on this machine."""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from storage import side_by_side, storable
from tasks.cards import Model, is_here, need_worker_parts
from tasks.exits import OK, OVER_BUDGET, Face, Said, choose_face, record_lines, say, say_json
from tasks.folder import Folder, JobError, find_job, missing_shards, read_run
from tasks.inputs import InputError, absolute
from tasks.merge import is_merged
from tasks.opening import Opened, Sources, asked_for, continue_job, open_job, sources
from tasks.progress import Watcher
from tasks.records import Job, Selection, Wishes
from tasks.shelf import find_model
from tasks.supervisor import Interrupted, Stopped, await_ready, run, start

DEMO = Path(__file__).resolve().parent.parent / "worker" / "demo"  # images and their truth


def annotate_typed(inputs: Sequence[str], as_json: bool, **typed: Any) -> int | Said:
    if code := gate(inputs, typed, as_json):
        return code
    selection, wishes = as_asked(typed, Selection, Wishes)
    return annotate(inputs, selection, wishes, as_json)


def gate(inputs: Sequence[str], typed: dict[str, Any], as_json: bool) -> int:
    """With --gate-parity, the exit code of one who would not go on."""
    if not typed["gate_parity"]:
        return OK
    judge = import_module("worker.parity").gate
    judged: Said | None = judge(inputs, *as_asked(typed, Selection, Wishes))
    return say(judged, as_json) if judged else OK


def as_asked(typed: dict[str, Any], *kinds: type[Any]) -> list[Any]:
    """What was typed, by the names of options, as values of these kinds."""
    words = typed | {"reduced_decode": not typed["full_decode"]}
    try:
        return [msgspec.convert(words, kind, strict=False) for kind in kinds]
    except msgspec.ValidationError as exc:
        said, _, name = str(exc).rstrip("`").rpartition(" - at `$.")
        raise InputError(f"--{name.replace('_', '-')} cannot be so: {said}") from exc


def annotate(inputs: Sequence[str], selection: Selection, wishes: Wishes, as_json: bool) -> Said:
    model = find_model(wishes.model, wishes.runtime, wishes.precision)
    with standard_input(inputs) as stdin:
        given = sources(inputs, selection, stdin)
        done = work_off(model, given, wishes, choose_face(as_json))
    return finish(*done, wishes.max_failures)


@contextmanager
def standard_input(inputs: Sequence[str]) -> Iterator[str]:
    """A list on standard input, in a file: read once for what it is and once for its lines."""
    with tempfile.NamedTemporaryFile(prefix="maskmill-stdin-") as file:
        if "-" in inputs:
            shutil.copyfileobj(sys.stdin.buffer, file)
            file.flush()
        yield file.name


def work_off(model: Model, given: Sources, wishes: Wishes, face: Face) -> Opened:
    """Plan what is asked for, or go on with it, and run it to its merged dataset."""
    output = storable(wishes.output)
    asked = asked_for(given, [model], wishes, "any")
    there = None if wishes.overwrite else continue_job(output, asked)
    if there is not None and is_merged(there.folder, there.job):
        return there
    need_worker_parts(model.engine)
    child = start(model)
    try:
        await_ready(child)
        job, folder = there or open_job(output, given, asked, overwrite=wishes.overwrite)
        if face == "json":
            say_json({"event": "planned", **msgspec.structs.asdict(job.counts)})
        watcher = Watcher(face, job.counts.items, _done(job, folder))
        with watcher.bar:
            order = {"job": folder.uri, "replace_edited": wishes.replace_edited}
            run(child, model, order, watcher.hear)
    except Interrupted as exc:
        done = f"{_done(job, folder)} of {job.counts.items} inputs are done and kept"
        same = "the same command goes on from there, any --overwrite left out"
        raise Stopped(f"stopped: {done}; {same}") from exc
    finally:
        child.close()
    return Opened(job, folder)


def demo(output: str, as_json: bool) -> int | Said:
    """The whole way on the bundled model and images, judged by their ground truth."""
    runtime = "" if is_here("onnx") else "tflite"  # as on boards
    wishes = Wishes(model="shapes", output=output, runtime=runtime)
    truth = str(DEMO / "instances.json")
    if code := say(annotate([truth], Selection(), wishes, as_json), as_json):
        return code
    next_steps = (
        f"\nLook at {output}/contact-sheet.jpg\n"
        "The bundled model knows these synthetic shapes only. Next, your own images:\n"
        "  maskmill annotate photos/ -m MODEL -o out   with a model of your own (see the README)\n"
        f"  maskmill doctor {output}                whether a job folder is sound\n"
        "  maskmill doctor                          what this machine can run"
    )
    judged: Said = import_module("worker.evaluate").evaluate(output, truth, next_steps)
    return judged


def _done(job: Job, folder: Folder) -> int:
    """Inputs in shards that are written: all but those of the shards that are still to come."""
    missing = missing_shards(folder, job)
    if len(missing) == job.counts.shards:
        return 0
    return job.counts.items - sum(side_by_side(lambda n: len(folder.read_plan(n)), missing))


def report(output: str, clip: bool, as_json: bool) -> int | Said:
    """What came of a merged job, said once more; or clips of its videos."""
    job, folder = find_job(absolute(output))
    record = read_run(folder)
    if record is None or record["run"] != job.run:
        raise JobError(f"{folder.uri} is not merged yet; maskmill merge {folder.uri} merges it")
    if not clip:
        return finish(job, folder, record["failures"])
    code: int = import_module("worker.clip").clips(folder, job, as_json)
    return code


def finish(job: Job, folder: Folder, max_failures: int) -> Said:
    summary = {
        "output": folder.uri,
        **msgspec.structs.asdict(job.counts),
        **(read_run(folder) or {}),
    }
    summary["files"] = {each: folder.file(each) for each in [*summary["files"], "run.json"]}
    lines = list(record_lines({name: told for name, told in _told(summary) if told}))
    if over := summary["failures"] > max_failures:
        said = f"{summary['failures']} inputs failed, more than --max-failures {max_failures};"
        lines.append(f"{said} they are listed in {folder.file('failures.jsonl')}")
    return Said({"event": "summary", **summary}, lines, OVER_BUDGET if over else OK)


def _told(summary: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a person is told of a summary."""
    yield "images", f"{summary['images']} of {summary['inputs']} inputs"
    yield "given twice", summary["duplicates"]
    named = summary["not_images_named"]
    yield "not images", [summary["not_images"], *named] if named else None
    for what, by in (("annotations", "class"), ("failures", "kind")):
        yield what, {"in all": summary[what], **summary[f"{what}_by_{by}"]}
    yield "made by", list(kinds_said(summary["produced_by"]))
    yield "time", [f"{name} {s:.1f} s" for name, s in summary["seconds_by_stage"].items()]
    yield "peak memory", f"{summary['peak_memory_bytes'] / 2**20:.0f} MiB of a worker"
    yield "files", summary["files"]


def kinds_said(kinds: Sequence[dict[str, str]]) -> Iterator[str]:
    """A line for each kind of worker where several made a dataset: equal bytes hold within one."""
    for each in kinds if len(kinds) > 1 else ():
        words = (each[n] for n in ("engine", "engine_version", "precision", "delegate"))
        yield " ".join([*filter(None, words), each["instruction_set"], each["sha256"][:12]])
