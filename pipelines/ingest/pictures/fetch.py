"""Fetch pictures by http(s) from untrusted hosts: bytes, time, redirects and addresses are limited.

Every hop resolves its host once and connects to the checked address, so a name cannot point elsewhere a moment later.
Proxies of the environment are not used.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import closing
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from infra.addresses import printable_address
from pipelines.sources.cells import Refused

REDIRECTS = 5
"""Redirects that are followed for a picture: a circle of them ends there."""
STALLS = 3
"""Timeouts in a row after which a host is left alone: each costs `timeout_s`; with fewer a short fault costs a host."""
PIECE = 1 << 16
"""Bytes of a read: the limits of size and time are checked between reads."""
# NAT64 prefix: the last 32 bits of its addresses are an IPv4 address.
NAT64 = ipaddress.ip_network("64:ff9b::/96")
_COPY = "copy the picture to such an address, or beside the file"
TRANSIENT = ("image_unreachable", "image_timeout")
"""Reasons that may be gone on a retry."""


class HostTimeouts:
    """Timeout counter of hosts: a host that exceeds `timeout_s` STALLS times in a row is not asked again."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout = timeout_s
        self._stalled: Counter[str] = Counter()

    def answer(self, host: str, address: str, ask: Callable[[float], bytes]) -> bytes:
        """Return the result of `ask`, called with its time limit in seconds; it raises TimeoutError beyond it."""
        if self._stalled[host] >= STALLS:
            raise Refused("image_timeout", f"{host} did not answer in time {STALLS} times in a row and was left alone")
        try:
            data = ask(self._timeout)
        except TimeoutError as error:
            self._stalled[host] += 1
            shown = printable_address(address)
            raise Refused("image_timeout", f"{shown}: did not arrive within {self._timeout:g} s") from error
        self._stalled[host] = 0
        return data


class Web:
    """Fetcher of addresses within limits; thread-safe.

    `limit` is in bytes, `timeout_s` covers one picture with its redirects. Hosts must be public, or named in `trusted`.
    """

    def __init__(self, limit: int, timeout_s: float, trusted: Collection[str]) -> None:
        self._limit, self._trusted = limit, frozenset(trusted)
        self._timeouts = HostTimeouts(timeout_s)

    def get(self, url: str) -> bytes:
        """Return the bytes of a URL; raise Refused with the reason."""
        host = _parts(url).hostname or ""
        return self._timeouts.answer(host, url, lambda seconds: self._follow(url, time.monotonic() + seconds))

    def _follow(self, url: str, deadline: float) -> bytes:
        for _ in range(REDIRECTS + 1):
            answer = self._ask(url, deadline)
            if isinstance(answer, bytes):
                return answer
            url = urljoin(url, answer)
        raise Refused("image_unreachable", f"{printable_address(url)}: more than {REDIRECTS} redirects")

    def _ask(self, url: str, deadline: float) -> bytes | str:
        """Return the bytes of one URL, or the address it redirects to."""
        parts = _parts(url)
        address = self._address(parts)
        out_of_time = threading.Event()
        try:
            connection = _Connection(parts, address, deadline)
            with closing(connection):
                connection.connect()
                # A socket's own timeout restarts with every byte; this one does not.
                watch = threading.Timer(max(0.0, deadline - time.monotonic()), _cut, (connection.sock, out_of_time))
                watch.daemon = True
                watch.start()
                try:
                    return self._answer(connection, parts)
                finally:
                    watch.cancel()
        except (OSError, http.client.HTTPException, ValueError) as error:
            if out_of_time.is_set() or isinstance(error, TimeoutError):
                raise TimeoutError from error
            raise Refused("image_unreachable", f"{printable_address(url)}: {_why_unreachable(error)}") from error

    def _answer(self, connection: http.client.HTTPConnection, parts: SplitResult) -> bytes | str:
        target = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe="/?%:@!$&'()*+,;=~")
        connection.request("GET", target, headers={"User-Agent": "sidmill", "Accept": "image/*"})
        response = connection.getresponse()
        url = printable_address(parts.geturl())
        if response.status in (301, 302, 303, 307, 308) and (location := response.getheader("Location")):
            return location
        if response.status != http.client.OK:
            raise Refused("image_unreachable", f"{url}: HTTP {response.status}")
        length, chunked = response.length, response.chunked  # reading to the end clears both
        if length is not None and length > self._limit:
            raise Refused("image_too_large", f"{url}: {length} bytes, at most {self._limit} are accepted")
        pieces, total = [], 0
        while piece := response.read1(PIECE):
            pieces.append(piece)
            total += len(piece)
            if total > self._limit:
                raise Refused("image_too_large", f"{url}: more than the {self._limit} bytes that are accepted")
        if length is not None and total < length:
            raise http.client.IncompleteRead(b"", length - total)
        if length is None and not chunked:
            raise Refused("image_unreachable", f"{url}: the answer does not say where it ends, so it may be cut short")
        return b"".join(pieces)

    def _address(self, parts: SplitResult) -> tuple[str, int]:
        """Return the host's first address; raise Refused if any address of an untrusted host is not public."""
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or "it is no name of a host"
            raise Refused("image_unreachable", f"{host}: the address of this host cannot be found: {why}") from error
        addresses = [str(each[4][0]) for each in found]
        if host not in self._trusted:
            for address in addresses:
                if not _public(address):
                    raise Refused(
                        "image_address", f"{host} is {address}, which is not public; name it in items.trusted_hosts"
                    )
        return addresses[0], port


class _Connection(http.client.HTTPConnection):
    """Connection to a checked address under the name of its host, with TLS for https."""

    def __init__(self, parts: SplitResult, address: tuple[str, int], deadline: float) -> None:
        self._judged, self._deadline = address, deadline
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self.default_port = 443 if self._tls else 80
        super().__init__(parts.hostname or "", address[1])

    def connect(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.sock = socket.create_connection(self._judged, left)
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host)


def _why_unreachable(error: Exception) -> str:
    """Return why a connection failed, as a message says it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of the host is not accepted: {error.verify_message}"
    if isinstance(error, http.client.IncompleteRead):
        return "the answer was cut short"
    if isinstance(error, ConnectionError):
        return f"the host does not answer, or breaks off ({error.strerror or type(error).__name__})"
    return f"{type(error).__name__}: {error}"


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts
    except ValueError as error:  # its text may contain part of a password
        raise Refused(
            "image_address", f"{printable_address(url)!r} is not an address that can be read: correct it"
        ) from error
    raise Refused("image_address", f"{printable_address(url)!r} is not an http or https address: {_COPY}")


def _public(address: str) -> bool:
    """Return whether an address is public: no private, loopback or reserved network, also not inside IPv6."""
    found = ipaddress.ip_address(address.split("%", 1)[0])
    inner = getattr(found, "ipv4_mapped", None) or getattr(found, "sixtofour", None)
    if found in NAT64:
        inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    return found.is_global and not found.is_multicast and (inner is None or inner.is_global)


def _cut(connected: socket.socket, out_of_time: threading.Event) -> None:
    out_of_time.set()
    try:
        connected.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # already closed: nothing to cut
