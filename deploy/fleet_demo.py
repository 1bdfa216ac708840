"""A fleet in plain processes: Redis, an S3 API over HTTP, two workers and beat; `make fleet-demo`.

The bundled images go through it from bucket to bucket, and the merged dataset is compared with
what `maskmill annotate` makes of the same bucket on one machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # storage and tests, whatever the working directory

import botocore.session

from storage import get, put
from tests.services import moto_server, redis_server

DEMO = ROOT / "worker" / "demo"
PLACE = ROOT / "fleet-demo-out"
MASKMILL = str(Path(sys.executable).with_name("maskmill"))
SHOWN = ("instances.json", "contact-sheet.jpg", "run.json")


@contextmanager
def running(*command: str, log: Path) -> Iterator[None]:
    """A process that is told to end when the demo does, and then waited for."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def maskmill(*arguments: str) -> None:
    print("$ maskmill", *arguments, flush=True)
    code = subprocess.run([MASKMILL, *arguments], check=False).returncode
    if code:
        sys.exit(f"that ended with exit code {code}; the logs are in {PLACE}")


def make_buckets(endpoint: str) -> None:
    client = botocore.session.get_session().create_client("s3", endpoint_url=endpoint)
    for bucket in ("photos", "fleet"):
        client.create_bucket(Bucket=bucket)
    for picture in sorted(DEMO.glob("*.jpg")):
        put(f"s3://photos/demo/{picture.name}", picture.read_bytes())


def main() -> None:
    PLACE.mkdir(exist_ok=True)
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        endpoint, broker = stack.enter_context(moto_server()), stack.enter_context(redis_server())
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "demo",
            "AWS_SECRET_ACCESS_KEY": "demo",
            "AWS_DEFAULT_REGION": "us-east-1",
            "MASKMILL_S3_ENDPOINT_URL": endpoint,
            "MASKMILL_BROKER_URL": broker,
            "MASKMILL_STATE": "s3://fleet/state",
            "MASKMILL_THREADS": "1",
            "XDG_CACHE_HOME": scratch,
        }
        make_buckets(endpoint)
        for name in ("worker-1", "worker-2"):
            log = PLACE / f"{name}.log"
            stack.enter_context(running(MASKMILL, "worker", "-m", "shapes", log=log))
        beat = ("-m", "celery", "-A", "worker.app", "beat", f"--pidfile={scratch}/beat.pid")
        stack.enter_context(running(sys.executable, *beat, log=PLACE / "beat.log"))
        job = ("s3://photos/demo/", "-m", "shapes", "--shard-size", "2")
        maskmill("submit", *job, "-o", "s3://fleet/out", "--wait")
        maskmill("annotate", *job, "-o", "s3://fleet/alone")
        if get("s3://fleet/out/instances.json") != get("s3://fleet/alone/instances.json"):
            sys.exit("the fleet's dataset is not that of one machine")
        print("the fleet's dataset and that of one machine are the same bytes")
        for name in SHOWN:
            (PLACE / name).write_bytes(get(f"s3://fleet/out/{name}"))
            print(PLACE / name)


if __name__ == "__main__":
    main()
