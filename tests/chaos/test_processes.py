"""Processes that die, run out of memory or of disk, or have another clock."""

from __future__ import annotations

import errno
import io
import json
import signal
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from PIL import Image

from storage import get
from tests.faults import KILL, SHARED, SWEEPING, Oracle, client_of, ends, failures, left, recover
from tests.fleet import Fleet, fleet, until
from tests.pictures import jpeg
from tests.running import maskmill
from tests.services import http_server, url_of

STEPS = {
    "before fetch": ("worker.shard:fetch", "before", 3),
    "after fetch": ("worker.shard:fetch", "after", 2),
    "before inference": ("worker.shard:infer", "before", 2),
    "after inference": ("worker.shard:infer", "after", 4),
    "before put": ("worker.jobs:_commit", "before", 2),
    "after put": ("worker.jobs:_commit", "after", 3),
    "before ack": ("celery.worker.request:Request.acknowledge", "before", 2),
    "after ack": ("celery.worker.request:Request.acknowledge", "after", 3),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kill", ["self", "parent", "both"])
def test_killed_at_each_step(
    made: Fleet, tmp_path: Path, out: Path, oracle: Oracle, step: str, kill: str
) -> None:
    call, when, nth = STEPS[step]
    blow = {"signal": KILL, "kill": kill, "ledger": str(tmp_path / "blow")}
    worker = made.worker(fault={"who": "child", "call": call, "when": when, "nth": nth, **blow})
    oracle.submit(made, out)
    until((tmp_path / "blow.0").exists, 120, step, made.logs)
    if kill == "self":
        recover(made, out)
        assert worker.process.poll() is None, "the supervisor goes on"
    else:
        worker.process.wait(60)
        until(lambda: not made.processes(), 60, "no process goes on alone", made.logs)
        assert left(out) > 0
        made.worker()
        recover(made, out)
    who = {"self": "1. child", "parent": "2. supervisor", "both": "2. supervisor and child"}[kill]
    oracle.check(out, f"{who} killed at a step")


@pytest.mark.parametrize("kind", ["killed", "raised"])
def test_out_of_memory_on_one_image(
    made: Fleet, tmp_path: Path, out: Path, oracle: Oracle, kind: str
) -> None:
    """The kernel kills the process, or an allocation fails in it: every time, at the same image."""
    blow = {"signal": KILL} if kind == "killed" else {"raises": "MemoryError"}
    made.worker(fault={"who": "child", "path": "picture 0007", "always": True, **blow})
    oracle.submit(made, out, "--shard-size", 4)
    recover(made, out)
    oracle.check(out, "5. out of memory on one image", 4, crashed=["picture 0007.jpg"])
    assert ends(out)["died"] == 4


def test_the_poison_corpus(made: Fleet, tmp_path: Path, out: Path, oracle: Oracle) -> None:
    """What `annotate` makes failure records of, the fleet does too, to the same bytes."""
    folder = tmp_path / "in"
    folder.mkdir()
    good = jpeg(1)
    for number in range(6):
        (folder / f"good {number}.jpg").write_bytes(jpeg(number))
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "truncated.jpg").write_bytes(good[: len(good) // 2])
    (folder / "text.png").write_bytes(b"this is no picture at all")
    (folder / "bomb.png").write_bytes(_bomb())
    (folder / "playlist.jpg").write_bytes(_playlist_in_avi())
    (folder / "kills.jpg").write_bytes(jpeg(9))
    with http_server(_endless) as server:
        uris = [{"uri": str(path), "file_name": path.name} for path in sorted(folder.iterdir())]
        uris.append({"uri": url_of(server, "/endless.jpg"), "file_name": "zz endless.jpg"})
        listed = tmp_path / "list.jsonl"
        listed.write_text("".join(json.dumps(each) + "\n" for each in uris))
        roots = f"{tmp_path},{url_of(server, '/')}"
        made.worker_variables = {"MASKMILL_HTTP_ALLOW": "127.0.0.1", "MASKMILL_INPUT_ROOTS": roots}
        segv = {"who": "child", "path": "kills.jpg", "signal": signal.SIGSEGV, "always": True}
        made.worker(fault=segv)
        limits = {"MASKMILL_MAX_BYTES": "300000", **made.worker_variables}
        whole = tmp_path / "whole"
        command = ("annotate", listed, "-m", oracle.card, "-o", whole, "--shard-size", 3)
        ran = maskmill(*command, fault=segv, **limits)
        assert ran.code == 3, ran.err
        command = ("submit", listed, "-m", oracle.card, "-o", out, SHARED, "--shard-size", 3)
        assert made.run(*command, **limits).code == 0
        recover(made, out)
    assert failures(out) == {
        "empty.jpg": "decode/empty",
        "truncated.jpg": "decode/corrupt",
        "text.png": "decode/not-an-image",
        "bomb.png": "decode/too-many-pixels",
        "playlist.jpg": "decode/not-an-image",
        "kills.jpg": "worker/crashed",
        "zz endless.jpg": "fetch/too-large",
    }
    expected = get(str(whole / "instances.json"))
    poisoned = Oracle(folder, oracle.card, expected)
    poisoned.check(out, "16. poison among the inputs", 7)


def test_a_full_disk(made: Fleet, tmp_path: Path, out: Path, oracle: Oracle) -> None:
    """The shards in hand are handed back, and done when there is room again."""
    full = {"errno": errno.ENOSPC, "ledger": str(tmp_path / "full"), "times": 4}
    made.worker(fault={"who": "child", "path": "/out/shards", "nth": 5, **full})
    oracle.submit(made, out)
    recover(made, out)
    oracle.check(out, "18. disk full", 4)
    assert ends(out)["released"] >= 1
    assert "died" not in ends(out), "no fault of the images"


def test_clocks_that_jump(made: Fleet, tmp_path: Path, out: Path, oracle: Oracle) -> None:
    """Two hours ahead, two hours behind and on time; a submitter ahead; one dies, messages go."""
    for number, seconds in enumerate((7200, -7200, 0)):
        die = {"call": "worker.shard:infer", "nth": 2, "signal": KILL}
        ledger = {"who": "child", "ledger": str(tmp_path / f"blow-{number}")}
        made.worker(fault=[{"clock": seconds}, {**die, **ledger}])
    oracle.submit(made, out, fault={"clock": 7200})
    client_of(made.broker).ltrim("maskmill.onnx.any.normal", 0, 5)
    made.beat()
    made.await_merged(out, 180)
    oracle.check(out, "18. clock jump", 3)


def test_a_supervisor_that_is_paused(tmp_path: Path, out: Path, oracle: Oracle) -> None:
    """A worker stopped in mid-shard for longer than the visibility timeout, then woken."""
    stop = {"call": "worker.jobs:_commit", "nth": 3, "signal": signal.SIGSTOP}
    with fleet(tmp_path / "fleet", MASKMILL_VISIBILITY_TIMEOUT="2") as made:
        ledger = {"who": "child", "ledger": str(tmp_path / "stop")}
        first = made.worker(fault=[{"who": "child", **SWEEPING}, {**stop, **ledger}])
        oracle.submit(made, out)
        until((tmp_path / "stop.0").exists, 120, "the stop", made.logs)
        made.worker(fault={"who": "child", **SWEEPING})
        made.await_merged(out, 120)
        first.signal_child(signal.SIGCONT)
        until(lambda: ends(out)["committed"] > 12, 60, "it commits what is there", made.logs)
        oracle.check(out, "4. a paused worker's shard done by another")


def _bomb() -> bytes:
    """A PNG whose header announces 60,000 × 60,000 pixels."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = _crc(bytes(data[12:29]))
    return bytes(data)


def _crc(chunk: bytes) -> bytes:
    import zlib

    return zlib.crc32(chunk).to_bytes(4, "big")


def _playlist_in_avi() -> bytes:
    """A playlist that names a local file, in the clothes of a video in those of a JPEG."""
    text = b"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    return b"RIFF" + len(text).to_bytes(4, "little") + b"AVI LIST" + text


def _endless(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Type", "image/jpeg")
    request.end_headers()
    while True:
        request.wfile.write(bytes(1 << 14))
