"""Nothing is sent for a vendor to an address inside the district's network."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_network
from typing import Any

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from bus.web.public_address import (
    RefusedAddressError,
    guarded_sockets,
    is_inside,
    is_refused,
)

REFUSED = (
    *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"),  # private
    *("127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "0.1.2.3", "::"),  # this machine
    *("169.254.169.254", "fe80::1", "fe80::1%eth0", "fec0::1"),  # this link, this site
    *("100.64.0.1", "100.127.255.255"),  # shared by a provider's customers
    *("fc00::1", "fd12:3456:789a::1"),  # unique local
    *("224.0.0.1", "239.255.255.250", "ff02::1", "ff0e::1"),  # multicast
    *("240.0.0.1", "255.255.255.255", "192.0.0.170", "198.18.0.1", "100::1"),  # special
    *("192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"),  # documentation
    *("::ffff:10.0.0.1", "::ffff:8.8.8.8", "::10.0.0.1", "::8.8.8.8"),  # IPv4 in IPv6
    *("64:ff9b::10.0.0.1", "64:ff9b::8.8.8.8", "64:ff9b:1::a00:1"),  # NAT64
    *("2002:a00:1::1", "2002:808:808::1", "2001:0:a00:1::1", "192.88.99.1"),  # 6to4, Teredo
    *("not an address", "", "vendor.example"),
)
PUBLIC = ("8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1")


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert is_refused(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_not_refused(address: str) -> None:
    assert not is_refused(address)


def test_the_district_may_name_further_networks_and_allow_this_machine() -> None:
    assert is_refused("8.8.8.8", [ip_network("8.8.0.0/16")])
    assert not is_refused("8.9.8.8", [ip_network("8.8.0.0/16")])
    assert not is_refused("127.0.0.1", loopback=True)
    assert not is_refused("::1", loopback=True)
    assert is_refused("10.0.0.1", loopback=True)
    assert is_refused("::ffff:127.0.0.1", loopback=True)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "::1", "10.0.0.1", "fe80::1%0"]
)
def test_a_host_inside_is_recognized_without_a_connection(host: str) -> None:
    assert is_inside(host)
    assert not is_inside("vendor.example")
    assert not is_inside("8.8.8.8")


class Resolver(AbstractResolver):
    """Gives a name another address each time."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    async def resolve(
        self, host: str, port: int = 0, family: Any = socket.AF_INET
    ) -> list[ResolveResult]:
        addresses = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            ResolveResult(
                hostname=host, host=one, port=port, family=socket.AF_INET, proto=0, flags=0
            )
            for one in addresses
        ]

    async def close(self) -> None:
        pass


def get(url: str, resolver: Resolver, **guard: Any) -> int:
    """Return the status of an answer; raises what the client raises."""

    async def request() -> int:
        connector = aiohttp.TCPConnector(
            resolver=resolver, socket_factory=guarded_sockets(**guard), use_dns_cache=False
        )
        async with (
            aiohttp.ClientSession(connector=connector) as client,
            client.get(url, allow_redirects=False) as answer,
        ):
            return answer.status

    return asyncio.run(request())


def refused(error: BaseException) -> bool:
    found: BaseException | None = error
    while found is not None and not isinstance(found, RefusedAddressError):
        found = found.__cause__ or found.__context__
    return found is not None


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "169.254.169.254", "127.0.0.1"], ids=["private", "metadata", "own"]
)
def test_a_name_that_leads_inside_gets_no_connection(address: str) -> None:
    with pytest.raises(aiohttp.ClientConnectorError) as caught:
        get("http://vendor.example:9/", Resolver([address]))
    assert refused(caught.value)


@pytest.mark.parametrize("url", ["http://10.0.0.1:9/", "http://[fd00::1]:9/", "http://127.0.0.1:9"])
def test_an_address_in_the_url_gets_no_connection(url: str) -> None:
    with pytest.raises(aiohttp.ClientConnectorError) as caught:
        get(url, Resolver(["8.8.8.8"]))
    assert refused(caught.value)


def test_a_name_that_changes_between_two_requests_is_checked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first answer is public, the second is this machine, where a server waits."""
    connections = []

    class Server(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            connections.append(transport)
            transport.write(b"HTTP/1.1 204 .\r\nconnection: close\r\n\r\n")
            transport.close()

    async def requests() -> list[BaseException | int]:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Server, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        tried: list[tuple[Any, ...]] = []

        async def connect(sock: socket.socket, address: tuple[Any, ...]) -> None:
            tried.append(address)
            raise ConnectionRefusedError("no way out of a test")

        monkeypatch.setattr(loop, "sock_connect", connect)
        connector = aiohttp.TCPConnector(
            resolver=Resolver(["8.8.8.8"], ["127.0.0.1"]),
            socket_factory=guarded_sockets(),
            use_dns_cache=False,
        )
        found: list[BaseException | int] = []
        async with aiohttp.ClientSession(connector=connector) as client:
            for _ in range(2):
                try:
                    async with client.get(f"http://vendor.example:{port}/") as answer:
                        found.append(answer.status)
                except aiohttp.ClientError as error:
                    found.append(error)
        server.close()
        assert tried == [("8.8.8.8", port)]  # the other address was not even tried
        return found

    first, second = asyncio.run(requests())
    assert isinstance(first, BaseException) and not refused(first)
    assert isinstance(second, BaseException) and refused(second)
    assert connections == []


def test_of_several_addresses_only_public_ones_are_tried() -> None:
    with pytest.raises(aiohttp.ClientConnectorError) as caught:
        get("http://vendor.example:9/", Resolver(["10.0.0.1", "192.168.0.1"]))
    assert refused(caught.value)
