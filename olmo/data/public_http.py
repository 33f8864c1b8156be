"""Files from web addresses that strangers wrote down: only http and https, only public addresses, only so much.

A host name is looked up once, the addresses are checked, and the connection goes to one that was checked, so a name
cannot mean one machine when it is checked and another when it is used. Every redirect goes through the same check.
Proxies are not used. Knows nothing of pictures.
"""

from __future__ import annotations

import functools
import http.client
import ipaddress
import socket
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlsplit

AGENT = "Mozilla/5.0 (compatible; molmo-data-download)"
_CHUNK = 1 << 16
_ALLOWED_IN_URLS = "!#$%&'()*+,/:;=?@[]~"
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class FetchError(Exception):
    """A file could not be fetched.

    Attributes:
        reason: what went wrong, in a few words.
        may_recover: another try, later, may succeed.
        reached: a server answered; False: the network may be down.
        wait_s: how long the server asks to wait, None where it does not say.
    """

    def __init__(
        self, reason: str, may_recover: bool = False, reached: bool = True, wait_s: float | None = None
    ) -> None:
        self.reason, self.may_recover, self.reached, self.wait_s = reason, may_recover, reached, wait_s
        super().__init__(reason)


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """How much a fetch may take, and from where.

    Attributes:
        timeout_s: seconds without a byte until it is given up.
        total_s: seconds for the whole file.
        max_bytes: largest file.
        allow_private: also fetch from this machine and from private networks.
        hosts: names that may be asked, in lower case, `*.example.org` for all below one; redirects included. None: any.
    """

    timeout_s: float = 20.0
    total_s: float = 120.0
    max_bytes: int = 50_000_000
    allow_private: bool = False
    hosts: frozenset[str] | None = None


def fetch(url: str, limits: FetchLimits) -> bytes:
    """The file behind a URL.

    Raises:
        FetchError: refused, not found, too large, too slow or cut off.
    """
    scheme = url.partition(":")[0].lower()
    if scheme not in ("http", "https"):
        raise FetchError(f"only http and https are fetched, not {scheme!r:.20}")
    deadline = time.monotonic() + limits.total_s
    try:
        if not urlsplit(url).hostname:
            raise FetchError("the address has no host")
        address = quote(url, safe=_ALLOWED_IN_URLS)  # spaces and letters beyond ASCII, which are common in the wild
        request = urllib.request.Request(address, headers={"User-Agent": AGENT, "Accept": "image/*,*/*;q=0.5"})
        with _opener(limits).open(request, timeout=limits.timeout_s) as answer:
            return _read(answer, limits, deadline)
    except FetchError:
        raise
    except urllib.error.HTTPError as error:
        with error:
            wait_s = retry_after(error.headers.get("Retry-After"))
        raise FetchError(f"status {error.code}", error.code in _RETRIED_STATUS, wait_s=wait_s) from None
    except urllib.error.URLError as error:
        raise _connection_problem(error.reason) from None
    except (ValueError, http.client.InvalidURL) as error:
        raise FetchError(f"bad address: {error!s:.80}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _connection_problem(error) from None


def retry_after(header: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks for: a number or a date; None where there is none, or nonsense."""
    if header is None:
        return None
    try:
        if header.strip().isdecimal():
            return float(header)
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _read(answer: Any, limits: FetchLimits, deadline: float) -> bytes:
    """The body, in pieces, so that neither a lie about the length nor a trickle gets past the limits."""
    stated = answer.headers.get("Content-Length")
    if stated is not None and stated.isdecimal() and int(stated) > limits.max_bytes:
        raise FetchError(f"larger than {limits.max_bytes:,} bytes")
    pieces, n_bytes = [], 0
    while piece := answer.read1(_CHUNK):
        pieces.append(piece)
        n_bytes += len(piece)
        if n_bytes > limits.max_bytes:
            raise FetchError(f"larger than {limits.max_bytes:,} bytes")
        if time.monotonic() > deadline:
            raise FetchError(f"not finished after {limits.total_s:g} s", may_recover=True)
    if stated is not None and stated.isdecimal() and n_bytes < int(stated):
        raise FetchError(f"cut off after {n_bytes:,} of {int(stated):,} bytes", may_recover=True)
    return b"".join(pieces)


def _connection_problem(reason: Any) -> FetchError:
    if isinstance(reason, FetchError):
        return reason
    if isinstance(reason, str):
        return FetchError(f"bad address: {reason:.80}")
    if isinstance(reason, ssl.SSLError):
        return FetchError(f"TLS: {reason.reason or reason!s:.80}")
    if isinstance(reason, socket.gaierror):
        return FetchError("host not found", reached=False)
    if isinstance(reason, TimeoutError):
        return FetchError("timed out", may_recover=True, reached=False)
    text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
    return FetchError(f"connection failed: {text or type(reason).__name__:.80}", may_recover=True, reached=False)


def _connect(host: str, port: int, timeout: Any, limits: FetchLimits) -> socket.socket:
    """A connection to a checked address of `host`."""
    if limits.hosts is not None and not _is_listed(host, limits.hosts):
        raise FetchError(f"host {host:.60} is not among those that may be asked")
    last: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        if not limits.allow_private and not _is_public(str(address[0])):
            raise FetchError(f"private address: {host:.60} is {address[0]}")
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(timeout)
            connection.connect(address)
        except OSError as error:
            connection.close()
            last = error
            continue
        return connection
    raise last or OSError(f"{host} has no address")


def _is_listed(host: str, hosts: frozenset[str]) -> bool:
    """Whether a host is named, or lies below a name that begins with `*.`."""
    name = host.lower().removesuffix(".")
    above = name.split(".")[1:]
    return name in hosts or any("*." + ".".join(above[i:]) in hosts for i in range(len(above)))


def _is_public(address: str) -> bool:
    """Whether an address is one of the internet; IPv4 in the clothes of IPv6 counts as what it is."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    inner = _embedded(parsed) if isinstance(parsed, ipaddress.IPv6Address) else None
    return (inner or parsed).is_global and not parsed.is_multicast


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one leads to, where it does."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _opener(limits: FetchLimits) -> urllib.request.OpenerDirector:
    """An opener without the handlers for files, ftp, data, proxies and passwords that the usual one has."""

    class Http(http.client.HTTPConnection):
        def connect(self) -> None:
            self.sock = _connect(self.host, self.port, self.timeout, limits)

    class Https(http.client.HTTPSConnection):
        def connect(self) -> None:
            plain = _connect(self.host, self.port, self.timeout, limits)
            self.sock = _tls().wrap_socket(plain, server_hostname=self.host)

    class HttpHandler(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(Http, req)

    class HttpsHandler(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(Https, req)

    opener = urllib.request.OpenerDirector()
    for handler in (
        HttpHandler(),
        HttpsHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener
