"""A web server of one file that grants parts of it, as most do; it counts what it sends."""

from __future__ import annotations

import re
from http.server import BaseHTTPRequestHandler


class Ranged:
    """`asked` holds for each answer the Range header and the bytes that were sent."""

    def __init__(self, data: bytes, etag: str = '"one"') -> None:
        self.data, self.etag = data, etag
        self.ranges = True
        self.url = ""
        self.cut = 0  # so many of the next answers break off in the middle
        self.asked: list[tuple[str, int]] = []

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range", "")
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)
        unless = request.headers.get("If-Range", self.etag)
        body, status = self.data, 200
        headers = {"ETag": self.etag} if self.etag else {}
        if found and self.ranges and unless == self.etag:
            start = int(found[1])
            end = min(int(found[2] or len(body)) + 1, len(body))
            status = 206 if start < len(body) else 416
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
            body = body[start:end]
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if self.cut:
            self.cut -= 1
            body = body[: len(body) // 2]
            request.close_connection = True
        self.asked.append((wanted, len(body)))
        request.wfile.write(body)
