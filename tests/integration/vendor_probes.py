"""What a vendor asks Kafka and the gate to find out what it can see, and the page of the answers."""

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
    """Who asks. `own` is its name in topics, `other` that of another vendor.

    admin: a client that lives as long as its requests.
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
    """DescribeUserScramCredentials needs DESCRIBE on the cluster."""
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
    "Metadata: a topic of another": lambda c: _named(c, c.topic(c.other)),
    "DescribeCluster": lambda c: f"{len(_one(c.admin.describe_cluster()).nodes)} node",
    "DescribeCluster: what it may do": _cluster_operations,
    "ListGroups": lambda c: sorted(g.group_id for g in _one(c.admin.list_consumer_groups()).valid),
    "DescribeGroups: of another": lambda c: (
        _one(c.admin.describe_consumer_groups([f"{PREFIX}.vendor.{c.other}.app"])).group_id
    ),
    "OffsetFetch: of another": lambda c: _one(
        c.admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(f"{PREFIX}.vendor.{c.other}.app")]
        )
    ),
    "DeleteGroups: of another": lambda c: _one(
        c.admin.delete_consumer_groups([f"{PREFIX}.vendor.{c.other}.app"])
    ),
    "Fetch: its own topic": lambda c: _fetch(c, c.topic()),
    "Fetch: a topic of another": lambda c: _fetch(c, c.topic(c.other)),
    "Fetch: a topic of the district": lambda c: _fetch(c, DISTRICT),
    "Fetch: the applied agreements": lambda c: _fetch(c, f"{PREFIX}.vendors"),
    "Fetch: the record of disclosures": lambda c: _fetch(c, f"{PREFIX}.disclosures"),
    "Fetch: its students": lambda c: _fetch(c, f"{PREFIX}.disclosures.students"),
    "Fetch: the offsets of all": lambda c: _fetch(c, "__consumer_offsets"),
    "Fetch: a topic that does not exist": lambda c: _fetch(c, "none"),
    "JoinGroup: of another": lambda c: _fetch(c, c.topic(), f"{PREFIX}.vendor.{c.other}.app"),
    "JoinGroup: of the district": lambda c: _fetch(c, c.topic(), f"{PREFIX}.canvas"),
    "ListOffsets: of another": lambda c: (
        _one(
            c.admin.list_offsets({TopicPartition(c.topic(c.other), 0): OffsetSpec.latest()})
        ).offset
    ),
    "Produce: its own topic": lambda c: _produce(c, c.topic()),
    "Produce: a topic of another": lambda c: _produce(c, c.topic(c.other)),
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
    "DescribeCluster: what it may do",
}
EMPTY = {"ListOffsets: of another": "_NOENT", "DescribeAcls": "nothing"}
"""What librdkafka makes of a refusal: it finds no such partition, or returns no rules."""


def _named(caller: Caller, topic: str) -> str:
    about = caller.admin.list_topics(topic, 10).topics[topic]
    if about.error:
        raise KafkaException(about.error)
    return f"{len(about.partitions)} partitions"


def ask(probe: Probe, caller: Caller) -> tuple[str, str]:
    """Return the answer for the table, and all that it says."""
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
    "GET a schema of another": "/subjects/{other}-value/versions/latest",
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
        "`tests/integration/test_vendor_access.py` asks a secure bus as vendors and as others do, and",
        "records each answer. `math` and `library` have agreements, and so has `rotated`, whose",
        "credentials were replaced; `old password` has those from before. No answer names a topic, a",
        "group, a subject or a user that is not the caller's.",
        "",
        "Kafka answers ApiVersions and the login itself to anybody. A caller that cannot log in can",
        "ask nothing else.",
        "",
        "| request | " + " | ".join(columns) + " |",
        "| --- |" + " --- |" * len(columns),
    ]
    lines += [
        f"| {what} | " + " | ".join(f"`{row[who]}`" for who in columns) + " |"
        for what, row in rows.items()
    ]
    return "\n".join([*lines, "", *section, ""])
