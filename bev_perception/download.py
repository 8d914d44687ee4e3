"""A file of a web server, in parts where the line breaks: bounded in size, in time and in tries.

What was received stays in a file and the next try goes on from there (`Range`), if the server still has the same file:
its `ETag`, or else the time that it was changed, is kept beside and sent along (`If-Range`, RFC 9110, section 13.1.5).
Proxies are those of the environment (`http_proxy`, `https_proxy`, `no_proxy`).
"""

from __future__ import annotations

import http.client
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bev_perception import __version__
from bev_perception.files import naming_the_full_disk, read_text, write_atomic

CHUNK = 2**18
AGAIN = frozenset({408, 416, 425, 429, 500, 502, 503, 504})  # answers after which another try may bring more
TRANSIENT = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)
NOTE_LIMIT = 1000  # characters of what a server says that identifies a file

Say = Callable[[str], None]


class DownloadError(OSError):
    """A file that a server does not give, or not as it was to be; the message says how to mend it."""


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for, in seconds.

    timeout_s: without a byte. tries: in a row that brought nothing. wait_s: before the second of them, and twice as
    long before each further one, up to longest_wait_s. total_s: for a file, all together.
    """

    timeout_s: float = 20.0
    tries: int = 6
    wait_s: float = 1.0
    longest_wait_s: float = 30.0
    total_s: float = 3600.0

    def __post_init__(self) -> None:
        if not (self.timeout_s > 0 and self.tries >= 1 and self.wait_s >= 0 and self.total_s > 0):
            raise ValueError(
                f"times must be positive and tries at least one, found {self.timeout_s:g} s without a byte and "
                f"{self.tries} tries, with {self.wait_s:g} s between, {self.total_s:g} s in all"
            )


def read_address(address: str, limit: int, patience: Patience, say: Say) -> bytes:
    """A whole small file, of at most `limit` bytes. Raises DownloadError."""
    received = bytearray()

    def attempt(end: float) -> None:
        received.clear()
        with _open(address, {}, patience) as response:
            _receive(response, received.extend, limit, end)
            stated = response.headers.get("Content-Length")
            if stated and stated.isdecimal() and int(stated) != len(received):
                raise ConnectionError(f"the connection ended after {len(received)} of {stated} bytes")

    _patiently(attempt, lambda: 0, address, patience, say, "")
    return bytes(received)


def download(address: str, part: Path, size: int, patience: Patience, say: Say) -> None:
    """Bring the file `part` to the `size` bytes that the file at `address` has, going on from what is there.

    What identifies the file at the server is kept beside, in `part`.note. Raises DownloadError; what was received
    stays then, and the next call goes on.
    """
    note = part.with_name(f"{part.name}.note")

    def received() -> int:
        return part.stat().st_size if part.exists() else 0

    def attempt(end: float) -> None:
        have, known = received(), _noted(note)
        if have > size or not known:
            have = 0
        elif have == size:
            return
        headers = {"Range": f"bytes={have}-", "If-Range": known} if have else {}
        try:
            response = _open(address, headers, patience)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the file is shorter than what is here, so it is another one
                forget(part)
            raise
        with response, naming_the_full_disk(part), open(part, "ab") as file:
            now = _identity(response)
            if response.status == 206 and (not _continues(response, have, size) or now not in ("", known)):
                file.truncate(0)  # other bytes than those that were asked for: of another file
                raise ConnectionError("the file changed between two parts, it is received anew")
            if response.status != 206:
                have = 0
                _check_length(response, address, size)
            file.truncate(have)
            if not have:
                write_atomic(note, now)
            _receive(response, file.write, size - have, end)
            file.flush()
            os.fsync(file.fileno())
            if file.tell() != size:
                raise ConnectionError(f"the connection ended after {file.tell()} of {size} bytes")

    _patiently(
        attempt, received, address, patience, say, ". What was received is kept, the next call goes on from there"
    )


def forget(part: Path) -> None:
    """Remove what `download` keeps."""
    part.unlink(missing_ok=True)
    part.with_name(f"{part.name}.note").unlink(missing_ok=True)


def check_address(address: str) -> str:
    """The address of a folder, without a slash at its end. Raises DownloadError for one that is not of HTTP(S), or that
    carries a password or a query."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DownloadError(
            f"{address!r} is no address of a web server; expected http://... or https://..., or a folder"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise DownloadError(
            f"the address of {parts.hostname} has a password, a query or a fragment; name the folder alone. Where the "
            "store asks for a password, let a proxy of the vehicle hold it, or mount the store as a folder"
        )
    return address.rstrip("/")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """To web servers only, and from an encrypted connection to no other."""

    max_redirections = 5

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        before, after = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if after not in ("http", "https") or (before, after) == ("https", "http"):
            raise DownloadError(
                f"{req.full_url} leads to {newurl}, which is not followed: expected https, or http where the store is "
                "http; name the right address of the store"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(address: str, headers: dict[str, str], patience: Patience) -> Any:
    """The response, an http.client.HTTPResponse. Only handlers of HTTP: urllib's own list also opens files and FTP."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    # A compressed answer would have another size and another hash.
    about = {"User-Agent": f"bev_perception/{__version__}", "Accept-Encoding": "identity"}
    request = urllib.request.Request(address, headers=about | headers)
    response = opener.open(request, timeout=patience.timeout_s)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        response.close()
        raise DownloadError(
            f"{address}: the server compresses it, which was not asked for; let it serve the file as it is"
        )
    return response


def _receive(response: Any, take: Callable[[bytes], Any], most: int, end: float) -> None:
    """Hand on what comes, as it comes. Raises DownloadError for more than `most` bytes, and after the time `end`."""
    left = most
    while chunk := response.read1(min(CHUNK, left + 1)):
        left -= len(chunk)
        if left < 0:
            raise DownloadError(f"{response.url}: is larger than the {most} bytes that it may have")
        take(chunk)
        if time.monotonic() > end:
            raise DownloadError(f"{response.url}: takes too long; what was received is kept, the next call goes on")


def _patiently(
    attempt: Callable[[float], None], received: Callable[[], int], address: str, patience: Patience, say: Say, kept: str
) -> None:
    """Try until it works, as long as it is worth it; a try that brought something wipes out failures before it.

    kept: what to say of what was received, where it was in vain.
    """
    end = time.monotonic() + patience.total_s
    failures = 0
    while True:
        before = received()
        try:
            return attempt(end)
        except TRANSIENT as error:
            if not _worth_another(error):
                raise DownloadError(f"{address}: {_said(error)}") from error
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            failures = 1 if received() > before else failures + 1
            wait = min(patience.wait_s * 2 ** (failures - 1), patience.longest_wait_s)
            if failures >= patience.tries or time.monotonic() + wait > end:
                raise DownloadError(
                    f"{address}: {_said(error)}, {failures} times in a row; look at the network and the server{kept}"
                ) from error
            say(f"{address}: {_said(error)}; tried again in {wait:g} s")
            time.sleep(wait)


def _worth_another(error: Exception) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code in AGAIN
    return not isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError)


def _said(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    reason = getattr(error, "reason", None) or error
    return str(reason) or type(reason).__name__


def _identity(response: Any) -> str:
    """What `If-Range` takes: a strong ETag, or else the time of the last change; "" where the server states neither."""
    tag = response.headers.get("ETag", "")
    found = tag if re.fullmatch(r'"[^"]*"', tag) else response.headers.get("Last-Modified", "")
    return found if len(found) <= NOTE_LIMIT and found.isprintable() else ""


def _noted(note: Path) -> str:
    try:
        return read_text(note, 4 * NOTE_LIMIT)
    except (OSError, ValueError):
        return ""


def _continues(response: Any, have: int, size: int) -> bool:
    return response.headers.get("Content-Range", "").strip() == f"bytes {have}-{size - 1}/{size}"


def _check_length(response: Any, address: str, size: int) -> None:
    stated = response.headers.get("Content-Length")
    if stated is not None and stated.strip() != str(size):
        raise DownloadError(
            f"{address}: has {stated} bytes, the manifest says {size}; the file is not uploaded whole, or the manifest "
            "is of another"
        )
