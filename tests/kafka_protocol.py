"""Kafka's protocol for probes: any request in any version, and everything that a response says.

It takes the messages' definitions from Kafka's own jar, so it knows each API key that the broker
knows. It is no client: it sends one request at a time and does not retry.

Source: Apache Kafka protocol guide; `clients/src/main/resources/common/message/README.md`;
RFC 5802 (SCRAM).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from confluent_kafka import KafkaError

SECONDS = 20.0
COMMENT = re.compile(r'("(?:\\.|[^"\\])*")|//[^\n]*')
NUMBERS = {
    "bool": ">?",
    "int8": ">b",
    "int16": ">h",
    "uint16": ">H",
    "int32": ">i",
    "uint32": ">I",
    "int64": ">q",
    "float64": ">d",
}
TEXTS = ("string", "bytes", "records")
HANDSHAKE, API_VERSIONS, AUTHENTICATE = 17, 18, 36
NO_ERROR = "NONE"

Field = dict[str, Any]
Fill = Callable[[Field], Any]
"""Returns the value of a field of a request; `DEFAULT` for the value that the definition gives."""
DEFAULT = object()


class ClosedError(Exception):
    """The broker closed the connection instead of answering."""


@dataclass(frozen=True)
class Message:
    """The definition of a request or a response."""

    name: str
    key: int
    fields: list[Field]
    structs: dict[str, list[Field]]
    valid: str
    flexible: str

    def is_flexible(self, version: int) -> bool:
        return within(self.flexible, version)


def within(versions: str, version: int) -> bool:
    """Return whether a version is among some: "0+", "1-3", "2" or "none"."""
    if versions == "none":
        return False
    first, _, last = versions.removesuffix("+").partition("-")
    return int(first) <= version and (versions.endswith("+") or version <= int(last or first))


@cache
def messages(jar: Path) -> dict[tuple[int, str], Message]:
    """Return the definitions by API key and "request" or "response"."""
    found = {}
    with ZipFile(jar) as opened:
        for name in opened.namelist():
            if not re.fullmatch(r"common/message/\w+(Request|Response)\.json", name):
                continue
            text = COMMENT.sub(lambda match: match[1] or "", opened.read(name).decode())
            table = json.loads(text)
            if table["validVersions"] == "none":
                continue
            structs = {one["name"]: one["fields"] for one in table.get("commonStructs", ())}
            found[table["apiKey"], table["type"]] = Message(
                re.sub("(Request|Response)$", "", table["name"]),
                table["apiKey"],
                table["fields"],
                structs,
                table["validVersions"],
                table.get("flexibleVersions", "none"),
            )
    return found


# ---- writing -------------------------------------------------------------------------------------


def encode(message: Message, version: int, fill: Fill) -> bytes:
    """Return the body of a request."""
    return _Writer(message, version, fill).struct(message.fields)


@dataclass
class _Writer:
    message: Message
    version: int
    fill: Fill

    def struct(self, fields: list[Field]) -> bytes:
        body = b"".join(
            self.field(one)
            for one in fields
            if within(one["versions"], self.version) and "tag" not in one
        )
        return body + (b"\0" if self.message.is_flexible(self.version) else b"")

    def field(self, field: Field) -> bytes:
        value = self.fill(field)
        nullable = within(field.get("nullableVersions", "none"), self.version)
        if value is DEFAULT:
            value = field.get("default", DEFAULT)
            if value in ("null", None) and nullable:
                value = None
        if value is None and not nullable:
            value = DEFAULT
        return self.value(field, field["type"], value)

    def value(self, field: Field, type_: str, value: Any) -> bytes:
        if type_.startswith("[]"):
            if value is None:
                return self.length(None, ">i")
            items = [DEFAULT] if value is DEFAULT else value
            return self.length(len(items), ">i") + b"".join(
                self.item(field, type_[2:], one) for one in items
            )
        if type_ in NUMBERS:
            number = 0 if value is DEFAULT else value
            if isinstance(number, str):
                number = number == "true" if type_ == "bool" else int(number, 0)
            return struct.pack(NUMBERS[type_], number)
        if type_ == "uuid":
            return bytes(16) if value is DEFAULT else value
        if type_ in TEXTS:
            form = ">h" if type_ == "string" else ">i"
            if value is None:
                return self.length(None, form)
            raw = b"" if value is DEFAULT else value.encode() if type_ == "string" else value
            return self.length(len(raw), form) + raw
        present = within(field.get("nullableVersions", "none"), self.version)
        if value is None:
            return b"\xff"
        return (b"\1" if present else b"") + self.struct(self.of(field, type_))

    def item(self, field: Field, type_: str, value: Any) -> bytes:
        if type_ in NUMBERS or type_ in TEXTS or type_ == "uuid":
            one = {**field, "type": type_, "nullableVersions": "none", "item": True}
            return self.value(one, type_, self.fill(one) if value is DEFAULT else value)
        return self.struct(self.of(field, type_))

    def of(self, field: Field, type_: str) -> list[Field]:
        return field.get("fields") or self.message.structs[type_]

    def length(self, size: int | None, form: str) -> bytes:
        if self.message.is_flexible(self.version):
            return _varint(0 if size is None else size + 1)
        return struct.pack(form, -1 if size is None else size)


def _varint(number: int) -> bytes:
    found = b""
    while number > 0x7F:
        found += bytes([number & 0x7F | 0x80])
        number >>= 7
    return found + bytes([number])


# ---- reading -------------------------------------------------------------------------------------


def decode(message: Message, version: int, content: bytes) -> dict[str, Any]:
    """Return a response as a table. Raises `ValueError` if bytes are left over."""
    reader = _Reader(message, version, content)
    found = reader.struct(message.fields)
    if reader.at != len(content):
        raise ValueError(f"{message.name} {version}: {len(content) - reader.at} bytes are left")
    return found


@dataclass
class _Reader:
    message: Message
    version: int
    content: bytes
    at: int = 0

    def take(self, size: int) -> bytes:
        found = self.content[self.at : self.at + size]
        if len(found) != size:
            raise ValueError(f"{self.message.name} {self.version}: the response is too short")
        self.at += size
        return found

    def varint(self) -> int:
        number = shift = 0
        while True:
            (byte,) = self.take(1)
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    def struct(self, fields: list[Field]) -> dict[str, Any]:
        mine = [one for one in fields if within(one["versions"], self.version)]
        found = {one["name"]: self.field(one) for one in mine if "tag" not in one}
        if self.message.is_flexible(self.version):
            tagged = {one["tag"]: one for one in mine if "tag" in one}
            for _ in range(self.varint()):
                tag, size = self.varint(), self.varint()
                if tag in tagged:
                    found[tagged[tag]["name"]] = self.field(tagged[tag])
                else:
                    found[f"tag {tag}"] = self.take(size)
        return found

    def field(self, field: Field) -> Any:
        type_ = field["type"]
        if type_.startswith("[]"):
            size = self.length(">i")
            return None if size is None else [self.one(field, type_[2:]) for _ in range(size)]
        if self.structured(type_) and within(field.get("nullableVersions", "none"), self.version):
            return None if self.take(1) == b"\xff" else self.one(field, type_)
        return self.one(field, type_)

    def structured(self, type_: str) -> bool:
        return type_ not in NUMBERS and type_ not in TEXTS and type_ != "uuid"

    def one(self, field: Field, type_: str) -> Any:
        if type_ in NUMBERS:
            form = NUMBERS[type_]
            return struct.unpack(form, self.take(struct.calcsize(form)))[0]
        if type_ == "uuid":
            return self.take(16)
        if type_ in TEXTS:
            size = self.length(">h" if type_ == "string" else ">i")
            if size is None:
                return None
            raw = self.take(size)
            return raw.decode() if type_ == "string" else raw
        return self.struct(field.get("fields") or self.message.structs[type_])

    def length(self, form: str) -> int | None:
        if self.message.is_flexible(self.version):
            return size - 1 if (size := self.varint()) else None
        size = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return None if size < 0 else size


def errors(answer: Any) -> list[str]:
    """Return the names of all errors that a response reports, in order, once each."""
    found: dict[str, None] = {}
    for name, value in _values(answer):
        if name.lower().endswith("errorcode") and value:
            found[KafkaError(value).name().lstrip("_")] = None
    return list(found)


def _values(answer: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(answer, dict):
        for key, value in answer.items():
            yield from _values(value, key)
    elif isinstance(answer, list):
        for one in answer:
            yield from _values(one, name)
    else:
        yield name, answer


# ---- a connection --------------------------------------------------------------------------------


class Connection:
    """One TLS connection to a listener.

    address: "host:port".
    ca:      the certificate of the authority.
    jar:     Kafka's jar with the messages.
    """

    def __init__(self, address: str, ca: Path, jar: Path) -> None:
        host, port = address.rsplit(":", 1)
        self._messages = messages(jar)
        plain = socket.create_connection((host, int(port)), SECONDS)
        context = ssl.create_default_context(cafile=str(ca))
        self._wire = context.wrap_socket(plain, server_hostname=host)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._wire.close()

    def wait(self, seconds: float) -> None:
        """Let the broker take this long for each answer."""
        self._wire.settimeout(seconds)

    def ask(self, key: int, version: int, fill: Fill) -> dict[str, Any]:
        """Return the response to a request. Raises `ClosedError` if the broker closes the connection."""
        request = self._messages[key, "request"]
        flexible = request.is_flexible(version)
        header = struct.pack(">hhi", key, version, 7) + struct.pack(">h", 5) + b"probe"
        content = header + (b"\0" if flexible else b"") + encode(request, version, fill)
        try:
            self._wire.sendall(struct.pack(">i", len(content)) + content)
            (size,) = struct.unpack(">i", self._receive(4))
            content = self._receive(size)
        except TimeoutError:
            raise TimeoutError(f"{request.name} version {version} was not answered") from None
        except (ConnectionError, ssl.SSLError) as error:
            raise ClosedError from error
        start = 5 if flexible and key != API_VERSIONS else 4
        return decode(self._messages[key, "response"], version, content[start:])

    def keys(self) -> dict[int, tuple[int, int]]:
        """Return the API keys that the broker names, each with its oldest and newest version.

        The oldest is one that the definitions have: of Produce, the broker also names versions that
        it does not serve (KAFKA-18659).
        """
        found = self.ask(API_VERSIONS, 4, named(ClientSoftwareName="p", ClientSoftwareVersion="1"))
        return {
            one["ApiKey"]: (max(one["MinVersion"], self._oldest(one["ApiKey"])), one["MaxVersion"])
            for one in found["ApiKeys"]
        }

    def _oldest(self, key: int) -> int:
        return int(self._messages[key, "request"].valid.partition("-")[0])

    def log_in(self, user: str, password: str) -> bool:
        """Return whether the broker accepts a login with SCRAM-SHA-512."""
        asked = self.ask(HANDSHAKE, 1, named(Mechanism="SCRAM-SHA-512"))
        assert asked["ErrorCode"] == 0
        name = user.replace("=", "=3D").replace(",", "=2C")
        first = f"n={name},r={secrets.token_urlsafe(18)}"
        said = self._authenticate(f"n,,{first}".encode())
        if said is None:
            return False
        nonce, salt, rounds = (one[2:] for one in said.decode().split(","))
        key = _salted(password, salt, int(rounds))
        client = hmac.digest(key, b"Client Key", "sha512")
        last = f"c=biws,r={nonce}"
        signed = f"{first},{said.decode()},{last}".encode()
        proof = hmac.digest(hashlib.sha512(client).digest(), signed, "sha512")
        both = bytes(a ^ b for a, b in zip(client, proof, strict=True))
        return (
            self._authenticate(f"{last},p={base64.b64encode(both).decode()}".encode()) is not None
        )

    def _authenticate(self, content: bytes) -> bytes | None:
        found = self.ask(AUTHENTICATE, 2, named(AuthBytes=content))
        return None if found["ErrorCode"] else found["AuthBytes"]

    def _receive(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            part = self._wire.recv(size - len(found))
            if not part:
                raise ClosedError
            found += part
        return found


def named(**values: Any) -> Fill:
    """Return a `Fill` that gives fields of these names these values."""
    return lambda field: values.get(field["name"], DEFAULT)


@cache
def _salted(password: str, salt: str, rounds: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha512", password.encode(), base64.b64decode(salt), rounds)
