"""A Hugging Face hub on the loopback interface, just enough for `huggingface_hub` to download public repositories.

It serves folders of this machine as repositories under the routes that the client asks: the repository's information,
its file tree, and the files, with ETag and commit headers and byte ranges. Gated and missing repositories answer as the
real hub does.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MAX_REQUESTS = 500

_API = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)(?:/(?P<what>revision|tree)/(?P<rev>[^/]+))?/?")
_FILE = re.compile(r"/(?P<id>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<path>.+)")


@dataclass
class FakeHub:
    """A running hub: where it is, and what it was asked for."""

    url: str
    requests: list[str] = field(default_factory=list)

    def files_sent(self) -> set[str]:
        """Names of the files whose content was sent."""
        return {match["path"] for r in self.requests if (match := _FILE.fullmatch(r.removeprefix("GET ")))}


@contextmanager
def fake_hub(repositories: Mapping[str, Path], gated: tuple[str, ...] = ()) -> Iterator[FakeHub]:
    """Serve folders as repositories until the block ends."""
    server = _Server(repositories, gated)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, repositories: Mapping[str, Path], gated: tuple[str, ...]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories, self.gated = repositories, gated
        self.hub = FakeHub(url=f"http://127.0.0.1:{self.server_address[1]}")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"  # no connection outlives the hub
    server: _Server

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        path = self.path.split("?")[0]
        requests = self.server.hub.requests
        requests.append(f"{self.command} {path}")
        if len(requests) > MAX_REQUESTS:
            return self._send(429, b"{}")
        match = _API.fullmatch(path) or _FILE.fullmatch(path)
        if match is not None and match["id"] in self.server.gated:
            return self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        if match is None or match["id"] not in self.server.repositories:
            return self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        if match["rev"] not in (None, "main", COMMIT):
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        folder = self.server.repositories[match["id"]]
        if match.re is _FILE:
            return self._send_file(folder / match["path"])
        return self._send(200, json.dumps(_describe(match["id"], folder, match["what"])).encode())

    def _send_file(self, file: Path) -> None:
        if not file.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        content = file.read_bytes()
        tag = hashlib.sha1(content).hexdigest()
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return self._send(200, content, headers)
        first, last = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return self._send(206, content[first : last + 1], headers)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _describe(repository: str, folder: Path, what: str | None) -> object:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    names = [p.relative_to(folder).as_posix() for p in files]
    if what == "tree":
        return [
            {"type": "file", "path": name, "size": p.stat().st_size, "oid": hashlib.sha1(p.read_bytes()).hexdigest()}
            for name, p in zip(names, files, strict=True)
        ]
    return {
        "id": repository, "modelId": repository, "sha": COMMIT, "private": False, "gated": False, "disabled": False,
        "downloads": 0, "likes": 0, "tags": [], "siblings": [{"rfilename": name} for name in names],
    }  # fmt: skip
