"""The requests of a vendor that tries to see more than its own data, and the page of the answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.integration.secure_vendors import PREFIX

Probe = Callable[["Caller"], Any]


@dataclass(frozen=True, slots=True)
class Caller:
    """A vendor that sends requests.

    own, other: the vendor's name in its topics, and the name of another vendor.
    admin:      a client for all requests, because a request fails when its client is closed.
    """

    own: str
    other: str
    options: dict[str, Any]
    admin: AdminClient

    def topic(self, name: str = "") -> str:
        return f"{PREFIX}.vendor.{name or self.own}.student"


def _one(futures: Any) -> Any:
    (future,) = futures.values() if isinstance(futures, dict) else (futures,)
    return future.result(15)


def _fetch(caller: Caller, topic: str, group: str = "") -> str:
    consumer = Consumer(
        caller.options
        | {
            "group.id": group or f"{PREFIX}.vendor.{caller.own}.probe",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "allow.auto.create.topics": False,
        }
    )
    try:
        consumer.subscribe([topic])
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if (message := consumer.poll(0.2)) is not None:
                if message.error():
                    raise KafkaException(message.error())
                return "records"
        return "nothing"
    finally:
        consumer.close()


def _produce(caller: Caller, topic: str) -> str:
    errors: list[Any] = []
    producer = Producer(caller.options)
    producer.produce(topic, b"x", on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(20) == 0
    if errors[0]:
        raise KafkaException(errors[0])
    return "written"


def _transaction(caller: Caller) -> str:
    producer = Producer(caller.options | {"transactional.id": "probe"})
    producer.init_transactions(10)
    return "begun"


def _config(topic: str) -> Any:
    entry = ConfigEntry("retention.ms", "1", incremental_operation=AlterConfigOpType.SET)
    return ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])


def _cluster_operations(caller: Caller) -> str:
    """Return how many operations on the cluster the caller may use.

    Without DESCRIBE on the cluster, it cannot list the users (DescribeUserScramCredentials).
    """
    about = _one(caller.admin.describe_cluster(include_authorized_operations=True))
    return f"{len(about.authorized_operations or ())} operations"


ANY_ACL = AclBindingFilter(
    ResourceType.ANY,
    None,  # type: ignore[arg-type]
    ResourcePatternType.ANY,
    None,  # type: ignore[arg-type]
    None,  # type: ignore[arg-type]
    AclOperation.ANY,
    AclPermissionType.ANY,
)
DISTRICT = f"{PREFIX}.student"

PROBES: dict[str, Probe] = {
    "Metadata: all topics": lambda c: sorted(c.admin.list_topics(timeout=10).topics),
    "Metadata: a topic of another vendor": lambda c: _named(c, c.topic(c.other)),
    "DescribeCluster": lambda c: f"{len(_one(c.admin.describe_cluster()).nodes)} node",
    "DescribeCluster: the allowed operations": _cluster_operations,
    "ListGroups": lambda c: sorted(g.group_id for g in _one(c.admin.list_consumer_groups()).valid),
    "DescribeGroups: of another vendor": lambda c: (
        _one(c.admin.describe_consumer_groups([f"{PREFIX}.vendor.{c.other}.app"])).group_id
    ),
    "OffsetFetch: of another vendor": lambda c: _one(
        c.admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(f"{PREFIX}.vendor.{c.other}.app")]
        )
    ),
    "DeleteGroups: of another vendor": lambda c: _one(
        c.admin.delete_consumer_groups([f"{PREFIX}.vendor.{c.other}.app"])
    ),
    "Fetch: its own topic": lambda c: _fetch(c, c.topic()),
    "Fetch: a topic of another vendor": lambda c: _fetch(c, c.topic(c.other)),
    "Fetch: a topic of the district": lambda c: _fetch(c, DISTRICT),
    "Fetch: the applied agreements": lambda c: _fetch(c, f"{PREFIX}.vendors"),
    "Fetch: the record of disclosures": lambda c: _fetch(c, f"{PREFIX}.disclosures"),
    "Fetch: the students of that record": lambda c: _fetch(c, f"{PREFIX}.disclosures.students"),
    "Fetch: the committed offsets": lambda c: _fetch(c, "__consumer_offsets"),
    "Fetch: a topic that does not exist": lambda c: _fetch(c, "none"),
    "JoinGroup: of another vendor": lambda c: _fetch(
        c, c.topic(), f"{PREFIX}.vendor.{c.other}.app"
    ),
    "JoinGroup: of the district": lambda c: _fetch(c, c.topic(), f"{PREFIX}.canvas"),
    "ListOffsets: of another vendor": lambda c: (
        _one(
            c.admin.list_offsets({TopicPartition(c.topic(c.other), 0): OffsetSpec.latest()})
        ).offset
    ),
    "Produce: its own topic": lambda c: _produce(c, c.topic()),
    "Produce: a topic of another vendor": lambda c: _produce(c, c.topic(c.other)),
    "Produce: a topic of the district": lambda c: _produce(c, DISTRICT),
    "InitProducerId: with a transactional id": _transaction,
    "CreateTopics": lambda c: _one(
        c.admin.create_topics([NewTopic(f"{PREFIX}.vendor.{c.own}.new", 1, 1)])
    ),
    "DeleteTopics: its own": lambda c: _one(c.admin.delete_topics([c.topic()])),
    "CreatePartitions: its own": lambda c: _one(
        c.admin.create_partitions([NewPartitions(c.topic(), 9)])
    ),
    "DeleteRecords: its own": lambda c: _one(
        c.admin.delete_records([TopicPartition(c.topic(), 0, 1)])
    ),
    "DescribeConfigs: its own": lambda c: _one(
        c.admin.describe_configs([ConfigResource(ResourceType.TOPIC, c.topic())])
    ),
    "DescribeConfigs: the broker": lambda c: _one(
        c.admin.describe_configs([ConfigResource(ResourceType.BROKER, "1")])
    ),
    "IncrementalAlterConfigs: its own": lambda c: _one(
        c.admin.incremental_alter_configs([_config(c.topic())])
    ),
    "DescribeAcls": lambda c: _one(c.admin.describe_acls(ANY_ACL)),
    "DeleteAcls": lambda c: _one(c.admin.delete_acls([ANY_ACL])),
    "CreateAcls": lambda c: _one(
        c.admin.create_acls(
            [
                AclBinding(
                    ResourceType.TOPIC,
                    DISTRICT,
                    ResourcePatternType.LITERAL,
                    f"User:vendor-{c.own}-a",
                    "*",
                    AclOperation.READ,
                    AclPermissionType.ALLOW,
                )
            ]
        )
    ),
    "AlterUserScramCredentials: its own": lambda c: _one(
        c.admin.alter_user_scram_credentials(
            [
                UserScramCredentialUpsertion(
                    f"vendor-{c.own}-a",
                    ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 8192),
                    b"another",
                )
            ]
        )
    ),
}

GRANTED = {
    "Metadata: all topics",
    "Fetch: its own topic",
    "ListGroups",
    "DescribeCluster",
    "DescribeCluster: the allowed operations",
}
EMPTY = {"ListOffsets: of another vendor": "_NOENT", "DescribeAcls": "nothing"}
"""Requests for which librdkafka shows a refusal in another way: no such partition, or no rules."""


def _named(caller: Caller, topic: str) -> str:
    about = caller.admin.list_topics(topic, 10).topics[topic]
    if about.error:
        raise KafkaException(about.error)
    return f"{len(about.partitions)} partitions"


def ask(probe: Probe, caller: Caller) -> tuple[str, str]:
    """Return the answer for the table, and the whole text of the answer."""
    try:
        found = probe(caller)
    except KafkaException as error:
        return error.args[0].name(), error.args[0].name()
    return _short(found, caller), repr(found)


def _short(found: Any, caller: Caller) -> str:
    if found == []:
        return "nothing"
    if isinstance(found, list):
        foreign = [one for one in found if f"{PREFIX}.vendor.{caller.own}." not in one]
        return f"{len(foreign)} of others" if foreign else "its own only"
    return str(found) if found is not None else "done"


PATHS = {
    "GET /subjects": "/subjects",
    "GET its own schema": "/subjects/{own}-value/versions/latest",
    "GET a schema of another vendor": "/subjects/{other}-value/versions/latest",
    "GET a schema of the district": f"/subjects/{DISTRICT}-value/versions/latest",
    "GET /schemas/ids/1 (the district's)": "/schemas/ids/1",
    "GET /schemas/ids/1/subjects": "/schemas/ids/1/subjects",
    "GET /schemas/ids/1/versions": "/schemas/ids/1/versions",
    "GET /config": "/config",
    "GET /mode": "/mode",
    "GET /schemas": "/schemas",
    "GET /contexts": "/contexts",
}


def page(rows: dict[str, dict[str, str]], section: list[str]) -> str:
    """Return the page docs/vendors-tested.md; `section` has the lines about API keys."""
    columns = ("math", "library", "rotated", "ended", "revoked", "old password", "nobody")
    lines = [
        "<!-- Generated by tests/integration/test_vendor_access.py; do not edit. -->",
        "",
        "# What vendors were answered",
        "",
        "`tests/integration/test_vendor_access.py` sends requests to a secure bus, and records the",
        "answers. Each column is a caller. `math`, `library` and `rotated` have active agreements. The",
        "credentials of `rotated` were replaced, and `old password` logs in with the earlier ones. The",
        "agreement of `ended` has ended, and that of `revoked` was revoked. `nobody` guesses a password",
        "and a token. No answer names a topic, a group, a subject or a user that is not the caller's.",
        "",
        "Anybody can ask Kafka for ApiVersions, and can try to log in. A caller that cannot log in can",
        "ask nothing else. `_NOENT` and `nothing` are how Kafka's client shows a refusal.",
        "",
        "| request | " + " | ".join(columns) + " |",
        "| --- |" + " --- |" * len(columns),
    ]
    lines += [
        f"| {what} | " + " | ".join(f"`{row[who]}`" for who in columns) + " |"
        for what, row in rows.items()
    ]
    return "\n".join([*lines, "", *section, ""])
