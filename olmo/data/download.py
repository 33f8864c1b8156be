"""Downloading the pictures of a dataset that names them by URL, and saying which are missing.

A picture lies in `folder` under the hash of its URL (`olmo.data.pictures.downloaded_file`), written in one piece, so a
file that is there is whole and is never fetched again: running the same download again goes on where it stopped. What
is gone for good is written to `skip.jsonl` and not asked for again; what failed for now is tried by the next run.
`report.json` lists all that is missing and why.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from olmo.data.pictures import downloaded_file
from olmo.data.public_http import FetchError, FetchLimits, fetch
from olmo.exceptions import OLMoInputError
from olmo.io import write_atomic

SKIP_LIST, REPORT = "skip.jsonl", "report.json"


class Wanted(NamedTuple):
    """A picture to get: its URL and, where the dataset says it, the SHA-256 of its file."""

    url: str
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class DownloadOptions:
    """How to download.

    Attributes:
        limits: limits of one file.
        n_threads: files fetched at once.
        n_per_host: files fetched at once from one host.
        n_tries: tries of one file in one run.
        max_wait_s: longest wait between two tries, whatever the server asks for.
        retry_skipped: ask again for what the skip list holds.
        keep_changed: keep files whose SHA-256 is not the dataset's.
        max_unreached: pictures in a row for which no server answers, before the network here is taken to be down.
    """

    limits: FetchLimits = field(default_factory=FetchLimits)
    n_threads: int = 16
    n_per_host: int = 4
    n_tries: int = 4
    max_wait_s: float = 30.0
    retry_skipped: bool = False
    keep_changed: bool = False
    max_unreached: int = 200


@dataclass
class DownloadReport:
    """What a download came to.

    Attributes:
        n_wanted: different URLs.
        n_there_before: of those, pictures that were there already.
        n_downloaded: pictures fetched now.
        missing: (URL, reason) of those that are not there.
        is_complete: all that was wanted has been looked at; False after an interruption.
    """

    n_wanted: int = 0
    n_there_before: int = 0
    n_downloaded: int = 0
    missing: list[tuple[str, str]] = field(default_factory=list)
    is_complete: bool = False

    def by_reason(self) -> dict[str, int]:
        """How many are missing for each kind of reason (what stands before a colon), the commonest first."""
        return dict(Counter(reason.partition(":")[0] for _, reason in self.missing).most_common())

    def asdict(self) -> dict[str, object]:
        """Plain values, as they are written to `report.json`."""
        return {
            "is_complete": self.is_complete,
            "n_wanted": self.n_wanted,
            "n_there_before": self.n_there_before,
            "n_downloaded": self.n_downloaded,
            "n_missing": len(self.missing),
            "by_reason": self.by_reason(),
            "missing": [{"url": url, "reason": reason} for url, reason in sorted(self.missing)],
        }


def download_pictures(
    wanted: Iterable[Wanted],
    folder: str | Path,
    check_picture: Callable[[bytes], object],
    options: DownloadOptions | None = None,
    on_done: Callable[[DownloadReport], None] | None = None,
) -> DownloadReport:
    """Get the pictures that are not there yet.

    Args:
        wanted: the pictures; a URL may come more than once.
        folder: where they are put, with the skip list and the report.
        check_picture: raises `OLMoInputError` for bytes that are no picture, or one that is too large;
            `olmo.preprocessing.image.load_image` does.
        options: how to download.
        on_done: called after each picture with the report so far, from this thread.

    Returns:
        The report, which is also in `report.json`, even after an interruption.

    Raises:
        OLMoInputError: no server answers any more, so that it must be the network here.
    """
    return _Download(Path(folder), check_picture, options or DownloadOptions()).run(wanted, on_done)


class _Failure(NamedTuple):
    """Why a picture is not there.

    Attributes:
        reason: in a few words.
        is_final: asking again is of no use.
        reached: a server answered.
    """

    reason: str
    is_final: bool
    reached: bool


class _Download:
    """One run."""

    def __init__(self, folder: Path, check_picture: Callable[[bytes], object], options: DownloadOptions) -> None:
        self.folder, self.check_picture, self.options = folder, check_picture, options
        self.report = DownloadReport()
        self.hosts = _Hosts(options.n_per_host)
        self.is_stopped = threading.Event()
        self.n_unreached = 0
        self.in_doubt: list[tuple[str, str]] = []  # final, if the network here was up when they failed

    def run(self, wanted: Iterable[Wanted], on_done: Callable[[DownloadReport], None] | None) -> DownloadReport:
        self.folder.mkdir(parents=True, exist_ok=True)
        pool = ThreadPoolExecutor(self.options.n_threads)
        try:
            pending: dict[Future[_Failure | None], str] = {}
            for item in self._to_fetch(wanted):
                pending[pool.submit(self._get, item)] = item.url
                if len(pending) >= 4 * self.options.n_threads:
                    self._take(pending, on_done)
            while pending:
                self._take(pending, on_done)
            self.report.is_complete = True
        finally:
            self.is_stopped.set()
            pool.shutdown(cancel_futures=True)
            write_atomic(self.folder / REPORT, json.dumps(self.report.asdict(), indent=1) + "\n")
        return self.report

    def _to_fetch(self, wanted: Iterable[Wanted]) -> Iterator[Wanted]:
        skipped = {} if self.options.retry_skipped else _read_skip_list(self.folder / SKIP_LIST)
        seen: set[str] = set()
        for item in wanted:
            if item.url in seen:
                continue
            seen.add(item.url)
            self.report.n_wanted += 1
            if downloaded_file(item.url, self.folder).is_file():
                self.report.n_there_before += 1
            elif item.url in skipped:
                self.report.missing.append((item.url, skipped[item.url]))
            else:
                yield item

    def _take(
        self, pending: dict[Future[_Failure | None], str], on_done: Callable[[DownloadReport], None] | None
    ) -> None:
        """Wait for pictures that are done and put them into the report."""
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            url, failure = pending.pop(future), future.result()
            if failure is None:
                self.report.n_downloaded += 1
            else:
                self.report.missing.append((url, failure.reason))
            self._note(url, failure)
            if on_done is not None:
                on_done(self.report)
            if failure is not None and self.n_unreached >= self.options.max_unreached:
                raise OLMoInputError(
                    f"no server answered for the last {self.n_unreached} pictures ({failure.reason}); check the "
                    "network of this machine, then run the same command again"
                )

    def _note(self, url: str, failure: _Failure | None) -> None:
        """Keep the skip list: a host that is not found is gone only if the network was seen to work afterwards."""
        is_reached = failure is None or failure.reached
        self.n_unreached = 0 if is_reached else self.n_unreached + 1
        if failure is not None and failure.is_final:
            self.in_doubt.append((url, failure.reason))
        if is_reached and self.in_doubt:
            with (self.folder / SKIP_LIST).open("a", encoding="utf-8") as file:
                file.writelines(json.dumps({"url": u, "reason": reason}) + "\n" for u, reason in self.in_doubt)
            self.in_doubt.clear()

    def _get(self, item: Wanted) -> _Failure | None:
        """Fetch one picture, with retries; None when it lies where it belongs. Runs in a thread."""
        for attempt in range(self.options.n_tries):
            try:
                with self.hosts.turn(item.url, self.is_stopped):
                    content = fetch(item.url, self.options.limits)
                break
            except FetchError as error:
                is_last = attempt == self.options.n_tries - 1
                if not error.may_recover or is_last or self.is_stopped.is_set():
                    return _Failure(error.reason, is_final=not error.may_recover, reached=error.reached)
                self._pause(item.url, attempt, error.wait_s)
        if item.sha256 and not self.options.keep_changed and hashlib.sha256(content).hexdigest() != item.sha256:
            return _Failure("changed since the dataset was made", is_final=True, reached=True)
        try:
            self.check_picture(content)
        except OLMoInputError as error:
            return _Failure(f"no picture: {error!s:.160}", is_final=True, reached=True)
        write_atomic(downloaded_file(item.url, self.folder), content)
        return None

    def _pause(self, url: str, attempt: int, asked_s: float | None) -> None:
        """Wait as long as the server asks, within bounds; without a word from it longer each time."""
        pause_s = min(2.0**attempt if asked_s is None else asked_s, self.options.max_wait_s)
        if asked_s is not None:
            self.hosts.rest(url, pause_s)
        self.is_stopped.wait(pause_s)


class _Hosts:
    """So many at once from one host, and none while it asks for rest."""

    def __init__(self, n_at_once: int) -> None:
        self._n_at_once = n_at_once
        self._lock = threading.Lock()
        self._turns: dict[str, threading.Semaphore] = {}
        self._rests_until: dict[str, float] = {}

    def turn(self, url: str, is_stopped: threading.Event) -> threading.Semaphore:
        """A semaphore of the host, to be held while fetching; waits out the host's rest first."""
        host = urlsplit(url).netloc
        with self._lock:
            turns = self._turns.setdefault(host, threading.Semaphore(self._n_at_once))
            rest_s = self._rests_until.get(host, 0.0) - time.monotonic()
        if rest_s > 0:
            is_stopped.wait(rest_s)
        return turns

    def rest(self, url: str, rest_s: float) -> None:
        """Have all threads leave the host alone for a while."""
        host = urlsplit(url).netloc
        with self._lock:
            self._rests_until[host] = max(self._rests_until.get(host, 0.0), time.monotonic() + rest_s)


def _read_skip_list(path: Path) -> dict[str, str]:
    """Reasons by URL. A line that a crash cut off is passed over; its picture is asked for again."""
    skipped = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                skipped[str(entry["url"])] = str(entry["reason"])
            except (ValueError, TypeError, KeyError):
                continue
    return skipped
