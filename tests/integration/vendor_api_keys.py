"""Sends each request of Kafka's protocol to the vendors' listener, as each caller.

A vendor asks about another vendor in every version of a request, and then about names that do not
exist. Apart from the names in the request, both answers must be the same. So no answer says that a
topic, a group or a user of another vendor exists, or how many records it has.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bus.local import download
from tests import kafka_protocol
from tests.kafka_protocol import DEFAULT, SECONDS, ClosedError, Connection, Field, Fill

LOADING = {"COORDINATOR_LOAD_IN_PROGRESS", "COORDINATOR_NOT_AVAILABLE", "NOT_COORDINATOR"}
METADATA, HANDSHAKE, API_VERSIONS, AUTHENTICATE, SCRAM_USERS = 3, 17, 18, 36, 50
SHARE_FETCH = 78
ITS_OWN, ALL = "its own", "about everything"
ANOTHER, BY_ID = "of another vendor", "of another vendor, by the topic's id"

VALUES: dict[int, dict[str, Any]] = {
    0: {"Acks": 1, "TimeoutMs": 1000, "TransactionalId": None},
    1: {"SessionEpoch": -1, "MaxBytes": 1 << 20, "PartitionMaxBytes": 1 << 20}
    | {"ForgottenTopicsData": [], "FetchOffset": 0},
    2: {"ReplicaId": -1, "Timestamp": -1},
    3: {"TopicId": bytes(16)},
    10: {"Key": "{group}", "CoordinatorKeys": "{group}"},
    11: {"SessionTimeoutMs": 10_000, "RebalanceTimeoutMs": 10_000, "ProtocolType": "consumer"}
    | {"Name": "range"},
    14: {"Assignments": [], "ProtocolType": "consumer", "ProtocolName": "range"},
    17: {"Mechanism": "SCRAM-SHA-512"},
    18: {"ClientSoftwareName": "probe", "ClientSoftwareVersion": "1"},
    19: {"NumPartitions": 1, "ReplicationFactor": 1, "Assignments": [], "Configs": []},
    20: {"TimeoutMs": 10_000, "TopicId": bytes(16)},
    22: {"TransactionTimeoutMs": 60_000},
    29: {"ResourceTypeFilter": 2, "ResourceNameFilter": "{topic}", "PatternTypeFilter": 1}
    | {"Operation": 1, "PermissionType": 1},
    30: {"ResourceType": 2, "ResourceName": "{topic}", "ResourcePatternType": 3}
    | {"Principal": "User:{user}", "Host": "*", "Operation": 3, "PermissionType": 3},
    31: {"ResourceTypeFilter": 2, "ResourceNameFilter": "{topic}", "PatternTypeFilter": 1}
    | {"Operation": 1, "PermissionType": 1},
    32: {"ResourceType": 2, "ResourceName": "{topic}", "ConfigurationKeys": None},
    33: {"ResourceType": 2, "ResourceName": "{topic}", "Configs": []},
    38: dict.fromkeys(("PrincipalType", "OwnerPrincipalType"), "User")
    | dict.fromkeys(("PrincipalName", "OwnerPrincipalName"), "{user}"),
    41: {"PrincipalType": "User", "PrincipalName": "{user}"},
    44: {"ResourceType": 2, "ResourceName": "{topic}", "Configs": []},
    48: {"EntityType": "user", "MatchType": 0, "Match": "{user}"},
    49: {"EntityType": "user", "EntityName": "{user}", "Key": "producer_byte_rate"},
    50: {"Name": "{user}"},
    51: {"Name": "{user}", "Mechanism": 2, "Upsertions": []},
    68: {"MemberId": "probe", "RebalanceTimeoutMs": 10_000, "TopicPartitions": []},
    76: {"MemberId": "AAAAAAAAAAAAAAAAAAAAAA"},
    78: {"MemberId": "AAAAAAAAAAAAAAAAAAAAAA", "MaxBytes": 1 << 20, "MaxRecords": 1}
    | {"BatchSize": 1, "AcknowledgementBatches": [], "ForgottenTopicsData": []},
    79: {"MemberId": "AAAAAAAAAAAAAAAAAAAAAA"},
    88: {"MemberId": "AAAAAAAAAAAAAAAAAAAAAA", "RebalanceTimeoutMs": 10_000},
}
"""Values of a request's fields, by API key. With them, a client could send the request."""

OF_ALL: dict[int, dict[str, Any]] = {
    3: {"Topics": None},
    9: {"Topics": None},
    15: {"Groups": []},
    16: {},
    29: dict.fromkeys(("ResourceNameFilter", "PrincipalFilter", "HostFilter"))
    | {"ResourceTypeFilter": 1},
    35: {"Topics": None},
    41: {"Owners": None},
    43: {"TopicPartitions": None},
    46: {"Topics": None},
    48: {"Components": []},
    50: {"Users": None},
    66: {"StateFilters": [], "ProducerIdFilters": [], "TransactionalIdPattern": None},
    74: {"ResourceTypes": []},
    75: {"Topics": []},
    90: {"Topics": None},
}
"""Values of a request about everything, for the API keys that have one."""


ADDRESS = "the address at which it reached the bus"
GRANTED = {
    1: "its records",
    2: "offsets in its topics",
    3: f"its topics; {ADDRESS}",
    8: "nothing",
    9: "offsets of its groups",
    10: ADDRESS,
    15: "its groups",
    16: "its groups",
    17: "the mechanism of the login",
    18: "the requests that this version of Kafka knows",
    23: "offsets in its topics",
    35: "nothing",
    60: f"{ADDRESS}; the cluster's random id",
    61: "which producer writes its topics, as a number that Kafka gives it",
    66: "nothing: a vendor has no transactions",
    68: "its group",
    75: "its topics",
    76: "its group",
    78: "its records",
    90: "offsets of its groups",
    91: "nothing",
}
"""What an answer without an error tells a vendor that asks about its own things, by API key."""

JUDGED = {
    3: "asked for all topics, it names only those of the caller",
    9: "asked for all topics of a group of the caller, it names only those of the caller",
    15: "asked for no group, it names none",
    16: "it names only the groups of the caller",
    17: "it answers anybody: a login begins",
    18: "it answers anybody: the requests that this version of Kafka knows",
    36: "it answers anybody: it is the login itself",
    38: "this Kafka does not use delegation tokens",
    39: "this Kafka does not use delegation tokens",
    40: "this Kafka does not use delegation tokens",
    41: "this Kafka does not use delegation tokens",
    50: "asked for all users, Kafka 4.2.2 fails and does not answer",
    60: f"it answers any user: {ADDRESS}, and the cluster's random id",
    66: "it names only the transactions of the caller: none",
    75: "asked for all topics, it names only those of the caller",
    90: "asked for all topics of a group of the caller, it names only those of the caller",
}
"""Why an answer that is not a refusal tells nothing about other vendors, by API key."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a request names."""

    topic: str
    group: str
    user: str
    topic_id: bytes = bytes(16)

    def names(self) -> tuple[str, ...]:
        return self.topic, self.group, self.user

    def absent(self) -> Target:
        """Return names of the same length that do not exist.

        The id of the topic stays the same. It is random (122 bits), so nobody can guess one. For an
        id that exists, Kafka answers TOPIC_AUTHORIZATION_FAILED; for any other, UNKNOWN_TOPIC_ID.
        """
        topic, group, user = (
            re.sub(r"(vendor[.-]).", r"\1x", one) for one in (self.topic, self.group, self.user)
        )
        return replace(self, topic=topic, group=group, user=user)


@dataclass(frozen=True, slots=True)
class Listener:
    """The vendors' listener."""

    address: str
    ca: Path

    def open(self, login: tuple[str, str] | None = None) -> Connection:
        """Return a connection; with a login, one that the broker has accepted."""
        found = Connection(self.address, self.ca, _jar())
        if login is not None and not found.log_in(*login):
            raise AssertionError(f"{login[0]} cannot log in")
        return found


def asking(key: int, target: Target, more: Mapping[str, Any] | None = None) -> Fill:
    """Return the values of a request. Its names are those of the target; each array has one item."""
    values = VALUES.get(key, {}) | dict(more or {})

    def fill(field: Field) -> Any:
        name, type_ = field["name"], field["type"]
        if name in values and not (type_.startswith("[]") and isinstance(values[name], str)):
            value = values[name]
            return value.format(**asdict(target)) if isinstance(value, str) else value
        if type_.startswith("[]"):
            return DEFAULT if "default" not in field else [DEFAULT]
        if type_ == "uuid" and name in ("TopicId", "TopicIds", "Topics"):
            return target.topic_id
        return {
            "topicName": target.topic,
            "groupId": target.group,
            "transactionalId": "probe",
        }.get(field.get("entityType", ""), DEFAULT)

    return fill


class Asker:
    """Sends requests as one vendor, and connects again when the broker closes the connection."""

    def __init__(self, listener: Listener, login: tuple[str, str]) -> None:
        self._listener = listener
        self._login = login
        self._open = listener.open(login)

    def close(self) -> None:
        self._open.__exit__()

    def keys(self) -> dict[int, tuple[int, int]]:
        return self._open.keys()

    def topic_id(self, topic: str) -> bytes:
        """Return the id of a topic of the caller."""
        found = self._open.ask(METADATA, 13, asking(METADATA, Target(topic, "", "")))
        (one,) = found["Topics"]
        assert one["ErrorCode"] == 0 and any(one["TopicId"]), one
        return bytes(one["TopicId"])

    def ask(self, key: int, version: int, fill: Fill) -> Any:
        """Return the response without its throttle time; "closed" or "no answer" if there is none.

        Kafka 4.2.2 does not answer a caller without rights who asks for all SCRAM users. While it
        begins to share a partition, it may answer a ShareFetch with UNKNOWN.
        """
        not_ready = LOADING | ({"UNKNOWN"} if key == SHARE_FETCH else set())
        self._open.wait(2.0 if key == SCRAM_USERS else SECONDS)
        end, again = time.monotonic() + 20, False
        while True:
            try:
                found = self._open.ask(key, version, fill)
            except ClosedError:
                self.again()
                if again:
                    return "closed"
                again = True  # the broker may have closed it because the login was too old
                continue
            except TimeoutError:
                if key != SCRAM_USERS:
                    raise
                self.again()
                return "no answer"
            found.pop("ThrottleTimeMs", None)
            if not not_ready.intersection(kafka_protocol.errors(found)) or time.monotonic() > end:
                return found
            time.sleep(0.2)

    def again(self) -> None:
        self.close()
        self._open = self._listener.open(self._login)


def said(answer: Any) -> str:
    """Return an answer for the table."""
    if isinstance(answer, str):
        return answer
    return ", ".join(kafka_protocol.errors(answer)) or "NONE"


def ask_as_vendor(
    listener: Listener,
    login: tuple[str, str],
    own: Target,
    other: Target,
    foreign: Iterable[str],
    *,
    all_versions: bool,
) -> tuple[dict[tuple[int, str], str], list[str]]:
    """Return the answers, by API key and question, and a text for each wrong answer.

    own, other:   names of the caller and of another vendor, with the true ids of the topics.
    foreign:      texts that no answer may contain.
    all_versions: send all versions of a request; otherwise only the newest. The returned answers
                  are those of the newest version.
    """
    absent = other.absent()
    answers: dict[tuple[int, str], str] = {}
    wrong: list[str] = []
    asker = Asker(listener, login)

    def ask(key: int, version: int, about: str, target: Target, more: Mapping[str, Any]) -> Any:
        """Ask, keep the answer, and look for foreign texts in it."""
        answer = asker.ask(key, version, asking(key, target, more))
        text = repr(answer)
        for name in target.names() if about in (ANOTHER, BY_ID) else ():
            text = text.replace(name, "…")
        wrong.extend(f"{key} {version} {about} names {one}" for one in foreign if one in text)
        answers[key, about] = said(answer)
        return answer

    try:
        for key, (oldest, newest) in sorted(asker.keys().items()):
            for version in range(oldest if all_versions else newest, newest + 1):
                answer = ask(key, version, ANOTHER, other, {})
                if key in OF_ALL:
                    ask(key, version, ALL, own, OF_ALL[key])
                if key == METADATA and version == newest:
                    ask(key, version, BY_ID, other, {"Name": None, "TopicId": other.topic_id})
                if key in (HANDSHAKE, AUTHENTICATE):
                    asker.again()  # the request began another login on this connection
                elif all_versions:
                    same = asker.ask(key, version, asking(key, absent))
                    if _plain(same, absent) != _plain(answer, other):
                        wrong.append(f"{key} {version}: {answer!r}, but without that name {same!r}")
            ask(key, newest, ITS_OWN, replace(own, group=f"{own.group}-{key}"), {})
            if key in (HANDSHAKE, AUTHENTICATE):
                asker.again()
    finally:
        asker.close()
    for (key, about), found in answers.items():
        if about == ITS_OWN:
            good = found != "NONE" or key in GRANTED
        else:
            good = found.endswith("_AUTHORIZATION_FAILED") or key in JUDGED
        if not good:
            wrong.append(f"{key} {about}: {found}")
    return answers, wrong


def _plain(answer: Any, target: Target) -> str:
    """Return an answer without the target's names, and without addresses of Java's objects."""
    text = repr(answer)
    for name in target.names():
        text = text.replace(name, "…")
    return re.sub(r"@[0-9a-f]+|\d+\.\d+\.\d+\.\d+:\d+-[\d.:-]+", "", text)


def ask_as_stranger(
    listener: Listener, login: tuple[str, str] | None, keys: Mapping[int, tuple[int, int]]
) -> dict[int, str]:
    """Return the answer to each key on a connection of its own whose login was refused.

    login: None: the caller does not log in.
    """
    nothing = Target("none", "none", "none")

    def one(key: int) -> str:
        with listener.open() as connection:
            try:
                if login is not None and connection.log_in(*login):
                    return "logged in"
                return said(connection.ask(key, keys[key][1], asking(key, nothing)))
            except ClosedError:
                return "closed" if login is None else "login refused"

    with ThreadPoolExecutor(8) as pool:
        return dict(zip(keys, pool.map(one, keys), strict=True))


@dataclass(frozen=True, slots=True)
class Vendor:
    """A caller with an agreement.

    own, other: names of the caller, and of the vendor that it asks about.
    foreign:    texts that no answer may contain.
    """

    login: tuple[str, str]
    own: Target
    other: Target
    foreign: frozenset[str]


def ask_everything(
    listener: Listener,
    vendors: Mapping[str, Vendor],
    strangers: Mapping[str, tuple[str, str] | None],
) -> tuple[list[str], list[str]]:
    """Return the section of the page, and a text for each wrong answer.

    vendors, strangers: by the name of the column. The first vendor sends all versions.
    """
    answers: dict[str, dict[tuple[int, str], str]] = {}
    wrong: list[str] = []
    ids = {}
    for one in vendors.values():
        asker = Asker(listener, one.login)
        ids[one.own.topic] = asker.topic_id(one.own.topic)
        keys = asker.keys()
        asker.close()
    for who, one in vendors.items():
        answers[who], problems = ask_as_vendor(
            listener,
            one.login,
            replace(one.own, topic_id=ids[one.own.topic]),
            replace(one.other, topic_id=ids[one.other.topic]),
            one.foreign,
            all_versions=who == next(iter(vendors)),
        )
        wrong += [f"{who}: {problem}" for problem in problems]
    refused = {who: ask_as_stranger(listener, login, keys) for who, login in strangers.items()}
    for who, found in refused.items():
        for key, answer in found.items():
            if answer not in ("closed", "login refused") and not (
                strangers[who] is None and key in (HANDSHAKE, API_VERSIONS)
            ):
                wrong.append(f"{who}: {key}: {answer}")
    return _section(keys, answers, refused), wrong


HEAD = """\
## Each request of Kafka's protocol

Each row is one request, with its API key. The listener for vendors names these keys in its answer to ApiVersions. Each
caller sends each request in its newest version: about its own topic, group and user, and about those of another vendor.
If a request can ask about everything, the caller sends that too. `math` sends the requests in all versions. It also asks
about names that do not exist, and gets the same answers as about another vendor. So no answer says what another vendor
has. `ended`, `revoked` and `old password` send the requests after their login was refused. `nobody` does not log in
here, and Kafka closes the connection.

`NONE` is Kafka's name for an answer without an error. The last column says what such an answer tells the caller, or why
an error that is not a refusal tells nothing. When Kafka refuses a request, its text may name the address of the
controller, but nothing else.
"""


def _section(
    keys: Iterable[int],
    answers: Mapping[str, Mapping[tuple[int, str], str]],
    refused: Mapping[str, Mapping[int, str]],
) -> list[str]:
    columns = [*answers, *refused]
    definitions = kafka_protocol.messages(_jar())
    lines = [
        *HEAD.splitlines(),
        "",
        "| request | " + " | ".join(columns) + " | what the answer tells |",
        "| --- |" + " --- |" * (len(columns) + 1),
    ]
    first = next(iter(answers.values()))
    for key in keys:
        name = definitions[key, "request"].name
        for about in (ITS_OWN, ANOTHER, BY_ID, ALL):
            if (key, about) not in first:
                continue
            found = [answers[who][key, about] for who in answers]
            found += [refused[who][key] for who in refused]
            good = first[key, about].endswith("_AUTHORIZATION_FAILED")
            tells = GRANTED.get(key, "") if about == ITS_OWN else JUDGED.get(key, "")
            cells = " | ".join(f"`{one}`" for one in found)
            why = "" if good or (about == ITS_OWN and first[key, about] != "NONE") else tells
            lines.append(f"| {name} ({key}): {about} | {cells} | {why} |")
    return lines


def _jar() -> Path:
    return next(download.fetched()[0].kafka.glob("kafka-clients-*.jar"))
