"""Decides to which IP addresses a request to a vendor may go.

A vendor names its own endpoint. Without a check, it could name a machine inside the district's
network and let the bus send requests there (server-side request forgery; OWASP, "Server Side
Request Forgery Prevention Cheat Sheet"). So only addresses that are globally reachable are allowed,
by the IANA registries of special-purpose addresses (RFC 6890, updated by RFC 8190). Refused are
private, loopback, link-local, unique-local, shared (RFC 6598), multicast, reserved and unspecified
addresses.

Every IPv6 address that contains an IPv4 address is refused too: IPv4-mapped and IPv4-compatible
addresses (RFC 4291, section 2.5.5), NAT64 (RFC 6052, RFC 8215), 6to4 (RFC 3056) and Teredo (RFC
4380). A public endpoint does not need them.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Collection
from typing import Any

REFUSED = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"),
        "fec0::/10",  # site-local, deprecated by RFC 3879
        "192.88.99.0/24",  # 6to4 relays, deprecated by RFC 7526
        # Not globally reachable. Python versions disagree about these.
        *("192.0.0.0/24", "100.64.0.0/10", "240.0.0.0/4", "5f00::/16", "3fff::/20"),
    )
)
"""Networks that are refused in addition to what `ipaddress` knows."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
SocketAddress = tuple[Any, Any, int, str, tuple[Any, ...]]
"""What `socket.getaddrinfo` returns: family, type, protocol, name, address."""


class RefusedAddressError(OSError):
    """A connection would have gone to an address to which no request may go."""


def is_refused(address: str, networks: Collection[Network] = (), *, loopback: bool = False) -> bool:
    """Return whether no request may go to an IP address. A text that is no IP address is refused.

    networks: further networks that are refused, such as public addresses inside the district.
    loopback: allow this machine.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return True
    if loopback and ip.is_loopback:
        return False
    return (
        not ip.is_global
        or ip.is_multicast
        or ip.is_reserved
        or any(ip in network for network in (*REFUSED, *networks))
    )


def is_inside(host: str, networks: Collection[Network] = (), *, loopback: bool = False) -> bool:
    """Return whether the host of a URL is an address to which no request may go.

    A name is not refused here, because its addresses are checked when a connection is made. Only
    `localhost` and the names below it are refused: they always mean this machine (RFC 6761, section
    6.3).

    networks, loopback: see `is_refused`.
    """
    host = host.rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return not loopback
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return is_refused(host, networks, loopback=loopback)


def guarded_sockets(
    networks: Collection[Network] = (), *, loopback: bool = False
) -> Callable[[SocketAddress], socket.socket]:
    """Return a function that makes the socket of a connection, for `aiohttp.TCPConnector`.

    aiohttp calls it with the address to which it connects next. So the function checks that very
    address, and a name that resolves to another address in between cannot avoid the check. The
    function raises `RefusedAddressError`.

    networks, loopback: see `is_refused`.
    """

    def make(info: SocketAddress) -> socket.socket:
        family, type_, proto, _, address = info
        if is_refused(str(address[0]), networks, loopback=loopback):
            raise RefusedAddressError("an address inside the district's network")
        return socket.socket(family=family, type=type_, proto=proto)

    return make
