"""Fetch one file: resumed after a cut, verified, and renamed into place only when whole.

While it runs, `NAME.qusr-part` (what arrived), `NAME.qusr-part.json` (which version of the file that is) and
`NAME.lock` (one process at a time) lie beside the target. After a cut or a Cancel the first two stay, so that the next
run goes on.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..http_answers import whole_number
from .connection import Cut, DownloadError, NothingLeft, Source, connect_while
from .digest import CHUNK, Digest
from .part import Part, Version

log = logging.getLogger(__name__)

DELAYS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each new try; the count starts again whenever more of the file has arrived."""
SLOW_SECONDS, SLOW_BYTES = 60.0, 4096
"""Less than these bytes in so long counts as a cut: a server that sends a byte now and then never times out."""
REPORT_EVERY = 0.1
"""Seconds between two calls of `progress`."""

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, bytes done and bytes in all (None: the server does not say)."""
Check = Callable[[], None]
"""Called between chunks; raises when the user cancelled."""


@dataclass(frozen=True)
class _Job:
    """What the steps of one download share."""

    source: Source
    target: Path
    progress: Progress
    check: Check

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def part(self) -> Part:
        return Part(self.target)


def fetch(source: Source, target: Path, progress: Progress | None = None, check: Check | None = None) -> str:
    """Download `source` to `target`, whole and verified or not at all; say in words how it was verified.

    Waits when another process downloads the same file, and then takes its result.

    Raises:
        DownloadError: not available, no connection, no room, folder not writable, wrong hash.
        BaseException: what `check` raises; what arrived stays for the next time.
    """
    job = _Job(source, target, _seldom(progress or (lambda what, done, total: None)), check or (lambda: None))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(job):
            if is_there(target):
                return "another process did it meanwhile"
            try:
                verified = _verify(job, _receive_all(job))
                job.part.finish()
            finally:
                job.part.discard_if_empty()
            return verified
    except OSError as error:
        raise DownloadError(
            f"{target.name}: cannot write into {target.parent}: {error.strerror or error}. Make room or make the "
            "folder writable, or choose another one"
        ) from error


def is_there(path: Path) -> bool:
    """A file with something in it."""
    return path.is_file() and path.stat().st_size > 0


def gigabytes(size: int) -> str:
    """A size for people."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _seldom(progress: Progress) -> Progress:
    """TLS hands out 16 KB at a time; nobody wants to be told that often."""
    last: dict[str, float] = {}

    def report(what: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if done == total or now - last.get(what, -REPORT_EVERY) >= REPORT_EVERY:
            last[what] = now
            progress(what, done, total)

    return report


@contextlib.contextmanager
def _lock(job: _Job) -> Iterator[None]:
    from filelock import FileLock, Timeout

    path = job.target.with_name(job.name + ".lock")
    path.open("ab").close()  # a folder that cannot be written is an error here; on Windows filelock would wait for ever
    lock, waited = FileLock(path), False
    while True:
        job.check()
        try:
            lock.acquire(timeout=0.5)
            break
        except Timeout:
            if not waited:
                log.info("%s: another process is downloading it; waiting", job.name)
                waited = True
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows: an open file cannot go, filelock removes it itself
            path.unlink()
        lock.release()


def _receive_all(job: _Job) -> Digest | None:
    """Try until the part is whole; returns the hash to verify it with."""
    failures, best = 0, job.part.received()
    while True:
        job.check()
        try:
            return _receive(job)
        except Cut as cut:
            if isinstance(cut, NothingLeft):
                job.part.discard()
            if job.part.received() > best:
                failures, best = 0, job.part.received()
            if failures == len(DELAYS):
                kept = " What has arrived is kept: run it again to go on from there." if job.part.received() else ""
                raise job.source.error(
                    job.name,
                    f"cannot be downloaded from {job.source.host}: {cut}. Check the internet connection, and "
                    f"HTTPS_PROXY where a proxy is needed.{kept}",
                ) from cut
            wait = DELAYS[failures] if cut.wait is None else cut.wait
            failures += 1
            log.warning("%s: %s; trying again in %g s", job.name, cut, wait)
            end = time.monotonic() + wait
            while (left := end - time.monotonic()) > 0:
                job.check()
                time.sleep(min(left, 0.2))


def _receive(job: _Job) -> Digest | None:
    """One connection: append to the part, or start it again where the server's file is another one."""
    old = job.part.version()
    have = job.part.received() if old else 0
    headers = {}
    if old and have:
        headers["Range"] = f"bytes={have}-"
        # A hash needs no condition: it is compared below, and of the whole at the end.
        if not old.digest and old.etag:
            headers["If-Range"] = old.etag
    try:
        answer, stated = connect_while(job.check, job.source, job.name, headers)
    except NothingLeft as error:
        if old and old.digest and error.total == have:  # all had arrived before the last run was stopped
            return Digest.parse(old.digest)
        raise
    with answer:
        digest = _expected(job, stated)
        etag = answer.headers.get("ETag")
        strong = etag if etag and not etag.startswith("W/") else None
        version = Version(digest.value if digest else None, strong)
        start, total = _span(answer)
        if start < 0 and not have:
            raise Cut("the server sends a part of the file that makes no sense")
        if start not in (0, have) or (start and not (old and old.same_as(version))):
            raise NothingLeft("the file on the server has changed; starting again")
        _refuse_other_file(job, answer, total)
        free = shutil.disk_usage(job.target.parent).free
        if total is not None and total - start > free:
            raise DownloadError(
                f"{job.name}: needs {gigabytes(total - start)} in {job.target.parent}, but {gigabytes(free)} are free. "
                "Make room, or choose another folder"
            )
        job.part.belongs_to(version)
        done, limit = start, job.source.size if total is None else total
        mark, marked = start, time.monotonic()
        with job.part.path.open("ab" if start else "wb") as file:
            job.progress(job.name, done, total)
            while True:
                job.check()
                try:
                    block = answer.read1(CHUNK)
                except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: a chunk of no length
                    raise Cut(f"the connection was cut after {done} bytes ({error})") from error
                if not block:
                    break
                if limit is not None and done + len(block) > limit:
                    raise NothingLeft(
                        f"the server sends more than the {limit} bytes that it has; starting again", wait=1
                    )
                file.write(block)
                done += len(block)
                if time.monotonic() - marked > SLOW_SECONDS:
                    if done - mark < SLOW_BYTES:
                        raise Cut(f"only {done - mark} bytes arrived in {SLOW_SECONDS:g} s")
                    mark, marked = done, time.monotonic()
                job.progress(job.name, done, total)
    if limit is not None and done < limit:
        raise Cut(f"the connection was cut after {done} of {limit} bytes")
    if not done:
        raise Cut("the server sent an empty file")
    return digest


def _expected(job: _Job, stated: Digest | None) -> Digest | None:
    known = job.source.digest
    if known and stated and stated.algorithm == known.algorithm and stated != known:
        raise job.source.error(
            job.name,
            f"the server offers another file (its {stated.label} is {stated.value}, expected {known.value}).",
        )
    return known or stated


def _span(answer: Any) -> tuple[int, int | None]:
    """First byte and full length of what comes; the first is -1 where the server makes no sense."""
    if answer.status == 206:
        pattern = r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)"
        match = re.fullmatch(pattern, answer.headers.get("Content-Range") or "")
        if not match or int(match[1]) > int(match[2]):
            return -1, None
        return int(match[1]), int(match[2]) + 1 if match[3] == "*" else int(match[3])
    return 0, whole_number(answer.headers.get("Content-Length"))


def _refuse_other_file(job: _Job, answer: Any, total: int | None) -> None:
    if answer.headers.get_content_type() == "text/html":
        raise job.source.error(
            job.name,
            f"{job.source.host} answered with a web page instead of the file; a login page of the network, or a wrong "
            "HF_ENDPOINT?",
        )
    if job.source.size is not None and total is not None and total != job.source.size:
        raise job.source.error(job.name, f"the server offers {total} bytes, expected {job.source.size}: another file.")


def _verify(job: _Job, digest: Digest | None) -> str:
    size = job.part.received()
    if digest is None:
        return f"{size} bytes; the server stated no hash, so only the length was checked"

    def step(done: int) -> None:
        job.check()
        job.progress(f"checking {job.name}", done, size)

    found = digest.of(job.part.path, step)
    if found != digest.value:
        job.part.discard()
        raise job.source.error(
            job.name,
            f"damaged: its {digest.label} is {found}, expected {digest.value}. The download was deleted; run it again.",
        )
    known = job.source.digest_from if job.source.digest else "that the server states"
    return f"verified with the {digest.label} {known}"
