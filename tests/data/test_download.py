"""Against a server on the loopback interface that misbehaves in every way the web does."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from olmo.data import public_http
from olmo.data.download import DownloadOptions, Wanted, download_pictures
from olmo.data.pictures import downloaded_file
from olmo.data.public_http import FetchError, FetchLimits, fetch, retry_after
from olmo.exceptions import OLMoInputError
from olmo.preprocessing.image import load_image

LIMITS = FetchLimits(timeout_s=1.0, total_s=2.0, max_bytes=20_000, allow_private=True)
QUICK = DownloadOptions(limits=LIMITS, n_threads=4, max_wait_s=0.05)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server: Server = self.server
        with server.lock:
            server.asked[self.path] += 1
            n = server.asked[self.path]
        what = self.path.lstrip("/").split("?")[0]
        if what == "busy-twice" and n <= 2:
            self.answer(429, b"", {"Retry-After": "3600"})
        elif what == "always-500":
            self.answer(500, b"")
        elif what == "gone":
            self.answer(404, b"not here")
        elif what == "page":
            self.answer(200, b"<html>please log in</html>")
        elif what == "huge":
            self.answer(200, b"x", {"Content-Length": "99999999"})
        elif what == "endless":
            self.send_response(200)
            self.end_headers()
            for _ in range(10_000):
                self.wfile.write(b"x" * 1000)
        elif what == "cut-once" and n == 1:
            self.answer(200, server.picture[:50], {"Content-Length": str(len(server.picture))})
            self.close_connection = True
        elif what == "silent":
            time.sleep(1.5)
        elif what == "trickle":
            self.send_response(200)
            self.end_headers()
            for _ in range(30):
                self.wfile.write(b"x")
                time.sleep(0.2)
        elif what == "moved":
            self.answer(302, b"", {"Location": "/picture?moved"})
        elif what == "to-file":
            self.answer(302, b"", {"Location": "file:///etc/passwd"})
        elif what == "to-ftp":
            self.answer(302, b"", {"Location": "ftp://127.0.0.1/x"})
        elif what == "loop":
            self.answer(302, b"", {"Location": "/loop"})
        else:
            self.answer(200, server.picture)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, picture: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.picture, self.asked, self.lock = picture, Counter(), threading.Lock()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"

    def handle_error(self, *_: object) -> None:
        pass  # clients that leave early are the point


@pytest.fixture
def server(make_picture) -> Iterator[Server]:
    running = Server(make_picture())
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def check(content: bytes) -> None:
    load_image(content, 10_000)


def download(server, folder, *paths, options=QUICK):
    return download_pictures([Wanted(server.url(p)) for p in paths], folder, check, options)


def reasons(report, server):
    return {url.removeprefix(server.url("")): reason for url, reason in report.missing}


def test_what_arrives_what_is_missing_and_why(server, tmp_path):
    paths = (
        "picture",
        "busy-twice",
        "cut-once",
        "moved",
        "with space é",
        "gone",
        "page",
        "huge",
        "always-500",
        "picture",
    )
    report = download(server, tmp_path, *paths)
    assert (report.n_wanted, report.n_there_before, report.n_downloaded) == (9, 0, 5)
    assert all(downloaded_file(server.url(p), tmp_path).read_bytes() == server.picture for p in paths[:5])
    why = reasons(report, server)
    assert why["gone"] == "status 404" and why["always-500"] == "status 500"
    assert why["page"].startswith("no picture: ") and why["huge"] == "larger than 20,000 bytes"
    assert report.by_reason() == {"status 404": 1, "no picture": 1, "larger than 20,000 bytes": 1, "status 500": 1}
    assert server.asked["/always-500"] == 4 and server.asked["/gone"] == 1 and server.asked["/busy-twice"] == 3
    written = json.loads((tmp_path / "report.json").read_text())
    assert written == report.asdict() and written["is_complete"] and written["n_missing"] == 4
    assert not list(tmp_path.rglob("*.saving*")) and not list(tmp_path.rglob(".*"))


def test_a_second_run_asks_only_for_what_may_still_come(server, tmp_path):
    paths = ("picture", "gone", "page", "always-500")
    download(server, tmp_path, *paths)
    server.asked.clear()
    report = download(server, tmp_path, *paths)
    assert set(server.asked) == {"/always-500"}
    assert (report.n_there_before, report.n_downloaded, len(report.missing)) == (1, 0, 3)
    assert reasons(report, server)["gone"] == "status 404", "the report still says why"
    server.asked.clear()
    download(server, tmp_path, *paths, options=DownloadOptions(limits=LIMITS, n_tries=1, retry_skipped=True))
    assert set(server.asked) == {"/gone", "/page", "/always-500"}


def test_a_torn_skip_list_is_read_as_far_as_it_goes(server, tmp_path):
    download(server, tmp_path, "gone", "page")
    with (tmp_path / "skip.jsonl").open("a") as file:
        file.write('{"url": "http://')
    server.asked.clear()
    download(server, tmp_path, "gone", "page")
    assert not server.asked


def test_the_hash_of_the_dataset_is_held_against_the_file(server, tmp_path):
    right = hashlib.sha256(server.picture).hexdigest()
    wanted = [Wanted(server.url("a"), right), Wanted(server.url("b"), "0" * 64)]
    report = download_pictures(wanted, tmp_path, check, QUICK)
    assert report.n_downloaded == 1 and reasons(report, server) == {"b": "changed since the dataset was made"}
    lenient = DownloadOptions(limits=LIMITS, retry_skipped=True, keep_changed=True)
    assert download_pictures(wanted, tmp_path, check, lenient).n_downloaded == 1


def test_waits_are_bounded_whatever_the_server_asks(server, tmp_path):
    begin = time.monotonic()
    assert download(server, tmp_path, "busy-twice").n_downloaded == 1, "the server asked for two hours"
    assert time.monotonic() - begin < 5


def test_an_interruption_leaves_whole_files_and_a_report(server, tmp_path):
    def stop(report):
        if report.n_downloaded == 3:
            raise KeyboardInterrupt

    wanted = [Wanted(server.url(f"p{i}")) for i in range(40)]
    with pytest.raises(KeyboardInterrupt):
        download_pictures(wanted, tmp_path, check, DownloadOptions(limits=LIMITS, n_threads=2), stop)
    assert not json.loads((tmp_path / "report.json").read_text())["is_complete"]
    there = [downloaded_file(w.url, tmp_path) for w in wanted if downloaded_file(w.url, tmp_path).exists()]
    assert 3 <= len(there) < 40 and all(f.read_bytes() == server.picture for f in there)
    report = download_pictures(wanted, tmp_path, check, QUICK)
    assert report.n_there_before == len(there) and report.n_downloaded == 40 - len(there) and report.is_complete


def test_a_dead_network_is_told_from_dead_links(server, tmp_path, monkeypatch):
    def unreachable(url, limits):
        raise FetchError("host not found", reached=False)

    wanted = [Wanted(f"http://host{i}.invalid/") for i in range(50)]
    monkeypatch.setattr("olmo.data.download.fetch", unreachable)
    with pytest.raises(OLMoInputError, match=r"no server answered for the last 10 pictures \(host not found\)"):
        download_pictures(wanted, tmp_path, check, DownloadOptions(max_unreached=10))
    assert not (tmp_path / "skip.jsonl").exists(), "the links may be fine"

    def some(url, limits):
        return server.picture if url.endswith("good") else unreachable(url, limits)

    monkeypatch.setattr("olmo.data.download.fetch", some)
    one_by_one = DownloadOptions(n_threads=1, max_unreached=10)
    mixed = [*wanted[:5], Wanted("http://a.example/good"), *wanted[5:9]]
    assert download_pictures(mixed, tmp_path, check, one_by_one).n_downloaded == 1
    skipped = [json.loads(line)["url"] for line in (tmp_path / "skip.jsonl").read_text().splitlines()]
    assert set(skipped) >= {w.url for w in wanted[:5]} and not set(skipped) & {w.url for w in wanted[8:]}


@pytest.mark.parametrize(
    ("path", "message", "may_recover"),
    [
        ("gone", "status 404", False),
        ("endless", "larger than 20,000 bytes", False),
        ("silent", "timed out", True),
        ("trickle", "not finished after 2 s", True),
        ("cut-once", "cut off after 50 of", True),
        ("to-file", "status 302", False),
        ("to-ftp", "bad address: unknown url type: ftp", False),
        ("loop", "status 302", False),
    ],
)
def test_one_fetch(server, path, message, may_recover):
    with pytest.raises(FetchError, match=message) as error:
        fetch(server.url(path), LIMITS)
    assert error.value.may_recover is may_recover


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/a", "data:image/png;base64,AA", "a.png", ""])
def test_other_schemes_are_refused(url):
    with pytest.raises(FetchError, match="only http and https"):
        fetch(url, LIMITS)


@pytest.mark.parametrize("url", ["http://", "http://:80/x", "http://[::1/", "http://a b/", "http://x:99999999/"])
def test_addresses_that_are_none(url):
    with pytest.raises(FetchError) as error:
        fetch(url, FetchLimits(timeout_s=1))
    assert "address" in error.value.reason or "host" in error.value.reason or "connection" in error.value.reason


def test_private_addresses_are_refused_unless_allowed(server, monkeypatch):
    strict = FetchLimits(timeout_s=1)
    for url in (server.url("picture"), "http://localhost/", "http://[::1]/", "http://169.254.169.254/latest"):
        with pytest.raises(FetchError, match="private address"):
            fetch(url, strict)
    assert not server.asked
    port = server.server_address[1]
    # A public name that leads here, and a redirect from a public host to this machine.
    monkeypatch.setattr(
        public_http.socket, "getaddrinfo", lambda *a, **k: [(2, 1, 6, "", ("127.0.0.1", port))], raising=True
    )
    with pytest.raises(FetchError, match=r"private address: cdn.example is 127.0.0.1"):
        fetch("http://cdn.example/a.png", strict)
    assert not server.asked


def test_a_redirect_to_a_private_address_is_refused(server, monkeypatch):
    asked = []

    def is_public(address):
        asked.append(address)
        return len(asked) == 1  # the first host passes for a public one

    monkeypatch.setattr(public_http, "_is_public", is_public)
    with pytest.raises(FetchError, match="private address"):
        fetch(server.url("moved"), FetchLimits(timeout_s=1))
    assert server.asked == {"/moved": 1}


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        *[(a, True) for a in ("8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8")],
        *[(a, False) for a in ("127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0")],
        *[(a, False) for a in ("::1", "fe80::1%eth0", "fd00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "224.0.0.1")],
    ],
)
def test_which_addresses_are_public(address, is_public):
    assert public_http._is_public(address) is is_public


def test_retry_after_is_a_number_or_a_date():
    assert retry_after("7") == 7.0 and retry_after(" 0 ") == 0.0
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert retry_after("Fri, 31 Dec 2100 23:59:59 GMT") > 1e8
    assert retry_after(None) is None and retry_after("soon") is None
