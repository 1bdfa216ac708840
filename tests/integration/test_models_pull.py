"""`maskmill models pull` from a server of the test's own: whole, resumed, refused, in a race."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.graphs import write_model
from tests.running import MASKMILL, Ran, environment, maskmill
from tests.services import free_port, http_server, reply, url_of

BYTES = random.Random(4).randbytes(3_000_000)


class Source:
    """Serves one file as a web server does: ETag, ranges, and whatever goes wrong."""

    def __init__(self) -> None:
        self.data, self.etag, self.url = BYTES, '"one"', ""
        self.status, self.ranges, self.cut, self.endless = 200, True, 0, False
        self.asked: list[tuple[str, int]] = []  # the Range asked for, and the bytes sent

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted, unless = request.headers.get("Range", ""), request.headers.get("If-Range", "")
        if self.status != 200:
            self.asked.append((wanted, 0))
            return reply(request, self.status)
        start = 0
        if wanted and self.ranges and unless == self.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        body = self.data[start:]
        request.send_response(206 if start else 200)
        if start:
            last = len(self.data) - 1
            request.send_header("Content-Range", f"bytes {start}-{last}/{len(self.data)}")
        if self.etag:
            request.send_header("ETag", self.etag)
        if not self.endless:
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        while self.endless:
            try:
                request.wfile.write(body)
            except OSError:
                request.close_connection = True
                return None
        sent = body[: self.cut] if self.cut else body
        self.asked.append((wanted, len(sent)))
        request.wfile.write(sent)
        request.close_connection = len(sent) < len(body)
        return None


@pytest.fixture
def source() -> Iterator[Source]:
    made = Source()
    with http_server(made.answer) as server:
        made.url = url_of(server, "/files/net.onnx")
        yield made


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    return tmp_path / "models"


def write_card(
    shelf: Path, url: str, *, sums: bool = True, data: bytes = BYTES, file: str = "net.onnx"
) -> Path:
    """A card whose one build is published at `url`; gives where its file goes."""
    said = f'size = {len(data)}\nsha384 = "{hashlib.sha384(data).hexdigest()}"\n' if sums else ""
    shelf.mkdir(parents=True, exist_ok=True)
    (shelf / "net.toml").write_text(
        'name = "net"\nfamily = "yolact"\nsource = "https://example.org/net"\ncategories = ["a"]\n'
        f'[[builds]]\nfile = "{file}"\n[[builds.downloads]]\nfile = "{file}"\nurl = "{url}"\n{said}'
    )
    return shelf / "net" / file


def pull(shelf: Path, *more: str) -> Ran:
    return maskmill(
        *("models", "pull", "net", *more),
        MASKMILL_MODELS=str(shelf),
        MASKMILL_HTTP_ALLOW="127.0.0.1",
    )


def leftovers(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.glob("*")) if target.parent.exists() else []


def test_a_build_is_pulled_verified_and_used(tmp_path: Path, source: Source, shelf: Path) -> None:
    source.data = (write_model(tmp_path, "a").parent / "canned.onnx").read_bytes()
    target = write_card(shelf, source.url, data=source.data)
    without = maskmill("annotate", tmp_path, "-m", "net", "-o", "x", MASKMILL_MODELS=str(shelf))
    assert without.code == 2
    assert "maskmill models pull net brings them" in without.err
    ran = pull(shelf)
    assert ran.code == 0, ran.err
    assert "its published checksum is right" in ran.out
    assert target.read_bytes() == source.data
    assert leftovers(target) == ["net.onnx"]
    listed = maskmill("models", "list", "--json", MASKMILL_MODELS=str(shelf)).events[0]["models"]
    (build,) = next(each for each in listed if each["name"] == "net")["builds"]
    assert build["path"] == str(target)
    again = pull(shelf, "--json")
    assert again.events[-1]["files"][0]["state"] == "here already"
    assert again.events[-1]["ready"] == str(target)
    assert len(source.asked) == 1, "nothing is downloaded twice"
    target.write_bytes(b"something else")
    other = pull(shelf)
    assert other.code == 2
    assert "is another file" in other.err
    assert target.read_bytes() == b"something else", "a person's file is not replaced"


def test_what_breaks_off_goes_on_by_itself(source: Source, shelf: Path) -> None:
    source.cut = 1_200_000
    target = write_card(shelf, source.url)
    ran = pull(shelf)
    assert ran.code == 0, ran.err
    assert target.read_bytes() == BYTES
    assert sum(sent for _, sent in source.asked) == len(BYTES), "no byte came twice"


def broken_off(source: Source, shelf: Path) -> Path:
    """A first pull that gets 1,200,000 bytes and then nothing."""
    target = write_card(shelf, source.url)
    source.ranges, source.cut = False, 1_200_000
    ran = pull(shelf)
    assert ran.code == 4
    assert "connection broke off; run this again" in ran.err
    assert not target.exists()
    assert target.with_name("net.onnx.part").stat().st_size == 1_200_000
    source.ranges, source.cut, source.asked = True, 0, []
    return target


def test_the_next_command_resumes(source: Source, shelf: Path) -> None:
    target = broken_off(source, shelf)
    ran = pull(shelf, "--json")
    assert ran.code == 0, ran.err
    assert source.asked == [("bytes=1200000-", 1_800_000)]
    assert target.read_bytes() == BYTES
    assert leftovers(target) == ["net.onnx"]


@pytest.mark.parametrize(
    ("etag", "ranges"),
    [('"two"', True), ('"one"', False), ("", True)],
    ids=["the file has changed", "the server ignores ranges", "the server has no versions now"],
)
def test_what_cannot_be_resumed_starts_anew(
    source: Source, shelf: Path, etag: str, ranges: bool
) -> None:
    target = broken_off(source, shelf)
    source.etag, source.ranges = etag, ranges
    ran = pull(shelf)
    assert ran.code == 0, ran.err
    assert target.read_bytes() == BYTES


def test_without_a_version_nothing_is_resumed(source: Source, shelf: Path) -> None:
    source.etag = 'W/"weak"'
    target = broken_off(source, shelf)
    assert pull(shelf).code == 0
    assert [wanted for wanted, _ in source.asked] == [""]
    assert target.read_bytes() == BYTES


def test_a_wrong_checksum_is_refused_and_not_kept(source: Source, shelf: Path) -> None:
    target = write_card(shelf, source.url)
    source.data = BYTES[:-1] + b"!"
    ran = pull(shelf)
    assert ran.code == 2
    assert f"expected SHA384 {hashlib.sha384(BYTES).hexdigest()}" in ran.err
    assert f"found {hashlib.sha384(source.data).hexdigest()}" in ran.err
    assert leftovers(target) == []


def test_a_spoilt_part_is_found_out_and_thrown_away(source: Source, shelf: Path) -> None:
    target = broken_off(source, shelf)
    part = target.with_name("net.onnx.part")
    part.write_bytes(bytes(part.stat().st_size))
    assert "it was not kept" in pull(shelf).err
    assert not part.exists()
    assert pull(shelf).code == 0
    assert target.read_bytes() == BYTES


def test_a_wrong_size_is_refused_before_it_comes(source: Source, shelf: Path) -> None:
    target = write_card(shelf, source.url)
    source.data = BYTES[:-5]
    ran = pull(shelf)
    assert ran.code == 2
    assert "expected 3000000 bytes, found 2999995" in ran.err
    assert leftovers(target) == []


@pytest.mark.parametrize("sums", [True, False], ids=["resumed or not", "of no checksum"])
def test_no_more_is_taken_than_was_published(source: Source, shelf: Path, sums: bool) -> None:
    """A server that says no length and sends without end."""
    target = write_card(shelf, source.url, sums=sums)
    if not sums:
        card = (shelf / "net.toml").read_text()
        (shelf / "net.toml").write_text(f"{card}size = {len(BYTES)}\n")
    source.endless = True
    ran = pull(shelf)
    assert ran.code == 2
    assert re.search("expected 3000000 bytes, found [34][0-9]{6}; it was not kept", ran.err)
    assert leftovers(target) == []


@pytest.mark.parametrize("said", ["", "no checksum\n"])
def test_a_spoilt_first_checksum_has_a_way_out(source: Source, shelf: Path, said: str) -> None:
    target = write_card(shelf, source.url, sums=False)
    assert pull(shelf).code == 0
    pin = target.with_name("net.onnx.sha256")
    pin.write_text(said)
    for _ in range(2):
        ran = pull(shelf)
        assert ran.code == 2
        assert f"{pin} holds no SHA-256 any more; remove it and run this again" in ran.err
        target.unlink(missing_ok=True)
    pin.unlink()
    assert pull(shelf).code == 0
    assert len(pin.read_text().split()[0]) == 64


def test_bundled_weights_need_no_pull(source: Source, shelf: Path) -> None:
    ran = maskmill("models", "pull", "shapes", MASKMILL_MODELS=str(shelf))
    assert ran.code == 0, ran.err
    assert "ready: maskmill annotate photos/ -m shapes" in ran.out


def test_without_a_published_checksum_the_first_is_kept(source: Source, shelf: Path) -> None:
    target = write_card(shelf, source.url, sums=False)
    ran = pull(shelf)
    assert ran.code == 0, ran.err
    found = hashlib.sha256(BYTES).hexdigest()
    assert f"no checksum of it is published: SHA-256 {found} is kept in net.onnx.sha256" in ran.out
    assert (target.parent / "net.onnx.sha256").read_text() == f"{found}  net.onnx\n"
    target.unlink()
    source.data = BYTES[::-1]
    other = pull(shelf)
    assert other.code == 2
    assert f"expected SHA256 {found}, found" in other.err
    assert leftovers(target) == ["net.onnx.sha256"]
    source.data = BYTES
    assert pull(shelf).code == 0


def test_what_is_gone_refused_or_never_answers_has_a_way_out(source: Source, shelf: Path) -> None:
    source.status = 404
    target = write_card(shelf, source.url)
    gone = pull(shelf)
    assert gone.code == 4
    assert "net.onnx does not exist; look for it at https://example.org/net," in gone.err
    assert f"and put it into {target.parent}" in gone.err
    write_card(shelf, f"http://127.0.0.1:{free_port()}/net.onnx")
    refused = pull(shelf)
    assert refused.code == 4
    assert "could not be reached: no connection, or no answer in time; run this" in refused.err
    write_card(shelf, source.url)
    private = maskmill("models", "pull", "net", MASKMILL_MODELS=str(shelf))
    assert private.code == 4
    assert "private, loopback" in private.err
    assert "MASKMILL_HTTP_ALLOW" in private.err
    assert leftovers(target) == ["net.onnx.part"], "empty, from before the first byte"


def shell(shelf: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(MASKMILL_MODELS=str(shelf), MASKMILL_HTTP_ALLOW="127.0.0.1"),
        check=False,
    )


def test_a_full_disk_is_said_and_gone_on_from(source: Source, shelf: Path) -> None:
    """The kernel refuses to let the file grow, as it does on a full disk."""
    target = write_card(shelf, source.url)
    ran = shell(shelf, "bash", "-c", f'ulimit -f 2000; exec "{MASKMILL}" models pull net')
    assert ran.returncode == 4, ran.stderr
    assert "the disk or the quota is full; make room and run this again" in ran.stderr
    kept = target.with_name("net.onnx.part").stat().st_size
    assert 0 < kept < len(BYTES)
    source.asked = []
    assert pull(shelf).code == 0
    assert source.asked == [(f"bytes={kept}-", len(BYTES) - kept)]
    assert target.read_bytes() == BYTES


def test_a_disk_that_is_really_full(source: Source, shelf: Path) -> None:
    write_card(shelf, source.url)
    mount = f'mkdir -p "{shelf}/net" && mount -t tmpfs -o size=1m none "{shelf}/net"'
    if not shutil.which("unshare") or shell(shelf, "unshare", "-rm", "sh", "-c", mount).returncode:
        pytest.skip("no right to mount a small file system; the limit above is the same refusal")
    ran = shell(shelf, "unshare", "-rm", "sh", "-c", f'{mount} && "{MASKMILL}" models pull net')
    assert ran.returncode == 4, ran.stderr
    assert "the disk or the quota is full; make room and run this again" in ran.stderr


def test_two_at_once_download_once(source: Source, shelf: Path) -> None:
    target = write_card(shelf, source.url)
    variables = environment(MASKMILL_MODELS=str(shelf), MASKMILL_HTTP_ALLOW="127.0.0.1")
    running = [
        subprocess.Popen([MASKMILL, "models", "pull", "net"], env=variables, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    for each in running:
        each.communicate(timeout=60)
    assert [each.returncode for each in running] == [0, 0, 0]
    assert target.read_bytes() == BYTES
    assert len(source.asked) == 1
    assert leftovers(target) == ["net.onnx"]


def test_weights_that_a_recipe_makes(source: Source, shelf: Path) -> None:
    """The card's own download, at another address: what is published is not yet the model."""
    shelf.mkdir()
    bundled = Path(__file__).parents[2] / "tasks" / "zoo" / "yolact-resnet50-fpn-pytorch.toml"
    lines = bundled.read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("url =", "size = 1", "sha384 ="))]
    at = kept.index('file = "yolact_resnet50_54_800000.pth"')
    kept.insert(at + 1, f'url = "{source.url}"')
    (shelf / "net.toml").write_text("\n".join(kept))
    ran = pull(shelf)
    assert ran.code == 0, ran.err
    assert "yolact-resnet50.onnx itself is not published" in ran.out
    assert "deploy/recipes/yolact-resnet50" in ran.out
    folder = shelf / "yolact-resnet50-fpn-pytorch"
    assert (folder / "yolact_resnet50_54_800000.pth").read_bytes() == BYTES


def test_what_a_card_does_not_offer(source: Source, shelf: Path) -> None:
    write_card(shelf, "")
    none = pull(shelf)
    assert none.code == 2
    assert "has no address of net.onnx" in none.err
    write_card(shelf, source.url)
    assert "has no build of precision int8; it has fp32" in pull(shelf, "--precision", "int8").err
    write_card(shelf, source.url, file="../../outside.onnx")
    outside = pull(shelf)
    assert outside.code == 2
    assert "no path below a folder" in outside.err
    assert source.asked == []
