"""Users, access rules and quotas of a Kafka cluster: the embedded one or a district's own.

A user is a SCRAM-SHA-512 user NAME, and its principal is `User:NAME`. A user without rules may do
nothing. Kafka asks for the rules at each request, so a change counts from the next request on, also
on open connections. A request that waits for data already is still answered.

Every function raises `Stop` if a person must act first, and `RetryLater` if the cluster does not
answer. No message contains a password.

Sources: Apache Kafka documentation, "Security" (SCRAM, "Authorization and ACLs") and "Quotas".
"""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)
from pydantic import SecretStr

from bus.errors import BusError, Stop
from bus.kafka.client import client_settings
from bus.kafka.kafka_errors import failure
from bus.settings import Settings

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""The names that `create_user` takes. A name such as `CN=…` could be that of a certificate."""

ITERATIONS = 8192
"""More than Kafka's default of 4,096. Kafka accepts up to 16,384."""

SECONDS = 10.0
"""How many seconds Kafka may take to answer a request."""

DISABLED = {
    KafkaError.SECURITY_DISABLED,
    KafkaError.UNSUPPORTED_VERSION,
    KafkaError._UNSUPPORTED_FEATURE,
}
"""The errors of a cluster that keeps no rules or no SCRAM users."""


@dataclass(frozen=True, slots=True, order=True)
class Rule:
    """One access rule (ACL) of a user.

    name:    the name of the resource, or what it begins with if `pattern` is "prefixed". "*" with
             "literal" means every resource of the type.
    host:    the client's address; "*" for all.
    """

    permission: Literal["allow", "deny"]
    resource: Literal["topic", "group", "cluster", "transactional_id"]
    pattern: Literal["literal", "prefixed"]
    name: str
    operation: str
    host: str = "*"


class AccessNotManaged(Stop):
    """The cluster does not let Schoolbus manage users or rules; its administrator must do it."""


def users(settings: Settings) -> set[str]:
    """Return the names of all SCRAM-SHA-512 users of the cluster.

    Raises `AccessNotManaged` if the cluster has no users, or does not list them for this user.
    """
    admin = _admin(settings)
    # Ask what is allowed first: when Kafka denies the request itself, librdkafka 2.16 aborts.
    cluster = admin.describe_cluster(include_authorized_operations=True, request_timeout=SECONDS)
    (about,) = _wait("describe the cluster", {None: cluster})
    if AclOperation.DESCRIBE not in (about.authorized_operations or ()):
        raise AccessNotManaged(_denied("list the users", "no DESCRIBE"))
    asked: Any = admin.describe_user_scram_credentials(request_timeout=SECONDS)
    (found,) = _wait("list the users", {None: asked}, absent=KafkaError.RESOURCE_NOT_FOUND) or [{}]
    return {
        name
        for name, about in found.items()
        if any(
            one.mechanism == ScramMechanism.SCRAM_SHA_512 for one in about.scram_credential_infos
        )
    }


def create_user(settings: Settings, user: str, password: SecretStr) -> None:
    """Create a user, or give an existing one a new password. Rules and quotas do not change.

    Open connections of the user go on. The cluster knows the new password within a moment.
    """
    _check(settings, user)
    if not password.get_secret_value():
        raise Stop(f"user {user} needs a password that is not empty")
    scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, ITERATIONS)
    secret = password.get_secret_value().encode()
    admin = _admin(settings)
    upsertion = UserScramCredentialUpsertion(user, scram, secret)
    asked = admin.alter_user_scram_credentials([upsertion], request_timeout=SECONDS)
    _wait(f"create user {user}", asked)


def delete_user(settings: Settings, user: str) -> None:
    """Delete a user's password, if it exists. Rules and quotas do not change.

    Open connections go on until they must authenticate themselves again, so call `deny_all` before.
    """
    _check(settings, user)
    deletion = UserScramCredentialDeletion(user, ScramMechanism.SCRAM_SHA_512)
    admin = _admin(settings)
    asked = admin.alter_user_scram_credentials([deletion], request_timeout=SECONDS)
    _wait(f"delete user {user}", asked, absent=KafkaError.RESOURCE_NOT_FOUND)


def allow(
    settings: Settings,
    user: str,
    topics: Collection[str],
    group_prefix: str,
    write: Collection[str] = (),
    known: Collection[Rule] | None = None,
    *,
    closed: bool = False,
) -> None:
    """Let a user read some topics, with its own groups, and write others, and nothing else.

    topics:       full names of the topics to read.
    group_prefix: what the names of the user's groups begin with. It must end in a dot or a dash, so
                  that the groups of `vendor.math2` are not those of `vendor.math`.
    write:        full names of the topics to write.
    known:        the rules of the user, if they were read already.
    closed:       the user may not read the topics now, and only sees that they exist.

    Afterwards the user's rules that allow something are exactly these; others are deleted. Rules
    that deny (`deny_all`) remain, and come first. New rules are created before old ones are
    deleted, so that a reader is never interrupted.
    """
    _check(settings, user)
    if group_prefix[-1:] not in (".", "-"):
        raise ValueError(f"the group prefix {group_prefix!r} must end in a dot or a dash")
    if "*" in {*topics, *write}:
        raise ValueError("a user gets single topics, not all of them")
    wanted = reading_rules(topics, group_prefix, write, closed=closed)
    found = rules(settings, user) if known is None else known
    allowed = {rule for rule in found if rule.permission == "allow"}
    _create(settings, user, wanted - allowed)
    _delete(settings, user, allowed - wanted)


def reading_rules(
    topics: Collection[str],
    group_prefix: str,
    write: Collection[str] = (),
    *,
    closed: bool = False,
) -> set[Rule]:
    """Return the rules that `allow` gives to a user."""
    return {
        *(Rule("allow", "topic", "literal", name, "read") for name in topics if not closed),
        *(Rule("allow", "topic", "literal", name, "describe") for name in topics),
        *(Rule("allow", "topic", "literal", name, "write") for name in write),
        *(Rule("allow", "topic", "literal", name, "describe") for name in write),
        Rule("allow", "group", "prefixed", group_prefix, "read"),
        Rule("allow", "group", "prefixed", group_prefix, "describe"),
    }


def deny_all(settings: Settings, user: str) -> None:
    """Deny a user everything from its next request on. This overrides what other rules allow."""
    _check(settings, user)
    known = rules(settings, user)
    wanted = {
        Rule("deny", "topic", "literal", "*", "all"),
        Rule("deny", "group", "literal", "*", "all"),
        Rule("deny", "transactional_id", "literal", "*", "all"),
        Rule("deny", "cluster", "literal", "kafka-cluster", "all"),
    }
    _create(settings, user, wanted.difference(known))


def remove_rules(settings: Settings, user: str) -> None:
    """Delete all rules of a user, those that allow and those that deny.

    The rules that allow are deleted first, so a denied user is never let in.
    """
    _check(settings, user)
    known = rules(settings, user)
    _delete(settings, user, {rule for rule in known if rule.permission == "allow"})
    _delete(settings, user, {rule for rule in known if rule.permission == "deny"})


def rules(settings: Settings, user: str) -> list[Rule]:
    """Return the rules of a user, in order. Rules for all users (`User:*`) are not among them."""
    _check(settings, user)
    found = _bindings(settings, f"User:{user}", f"read the rules of user {user}")
    return sorted(_rule(binding) for binding in found)


def all_rules(settings: Settings) -> dict[str, set[Rule]]:
    """Return the rules of every user that has some, by user, with one request."""
    found = defaultdict(set)
    for binding in _bindings(settings, None, "read the rules of all users"):
        kind, _, user = binding.principal.partition(":")
        if kind == "User":
            found[user].add(_rule(binding))
    return dict(found)


def _bindings(settings: Settings, principal: str | None, doing: str) -> Iterable[Any]:
    """Return the rules of a principal; None: of all."""
    sought = AclBindingFilter(
        ResourceType.ANY,
        None,  # type: ignore[arg-type]
        ResourcePatternType.ANY,
        principal,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        AclOperation.ANY,
        AclPermissionType.ANY,
    )
    admin = _admin(settings)
    asked = admin.describe_acls(sought, request_timeout=SECONDS)
    (found,) = _wait(doing, {None: asked})
    bindings: Iterable[Any] = found
    return bindings


def set_quotas(
    settings: Settings,
    users: Collection[str],
    *,
    bytes_per_second_in: int | None,
    bytes_per_second_out: int | None,
    request_percentage: float | None,
) -> str:
    """Limit what each of some users may take of each broker. None: no limit.

    bytes_per_second_in:  what a user sends to Kafka.
    bytes_per_second_out: what Kafka sends to a user.
    request_percentage:   time of the request threads; 100 is one whole thread.

    Kafka slows a user down that takes more. Returns "", or for a cluster that is not embedded the
    commands with which its administrator sets the quota, one a line, as librdkafka has no quotas.
    The command that deletes a limit fails if there is none, which does no harm.
    """
    for user in users:
        _check(settings, user)
    quota = {
        "producer_byte_rate": bytes_per_second_in,
        "consumer_byte_rate": bytes_per_second_out,
        "request_percentage": request_percentage,
    }
    if not settings.embedded:
        return "\n".join(_quota_command(settings, user, quota) for user in users)
    from bus.local.quotas import alter_quotas

    if users:
        alter_quotas(settings.home, dict.fromkeys(users, quota))
    return ""


def remove_quota(settings: Settings, user: str) -> str:
    """Delete the limits of a user. Returns what `set_quotas` returns."""
    return set_quotas(
        settings,
        [user],
        bytes_per_second_in=None,
        bytes_per_second_out=None,
        request_percentage=None,
    )


def _quota_command(settings: Settings, user: str, quota: Mapping[str, float | None]) -> str:
    command = ["kafka-configs.sh", "--bootstrap-server", settings.kafka.bootstrap]
    command += ["--command-config", "admin.properties", "--alter"]
    command += ["--entity-type", "users", "--entity-name", user]
    added = ",".join(f"{key}={value}" for key, value in quota.items() if value is not None)
    deleted = ",".join(key for key, value in quota.items() if value is None)
    changes = [("--add-config", added), ("--delete-config", deleted)]
    return "\n".join(shlex.join([*command, *change]) for change in changes if change[1])


def _check(settings: Settings, user: str) -> None:
    """Raise `Stop` if this cannot be the name of a user, or if it is the bus itself."""
    own = settings.kafka.sasl_username
    if settings.embedded:
        from bus.local.credentials import USER

        own = USER
    if not NAME.fullmatch(user) or user == "ANONYMOUS":
        raise Stop(
            f"{user!r} cannot be the name of a user: use letters, digits, dots, dashes and "
            "underscores"
        )
    if user == own:
        raise Stop(f"{user} is the user of Schoolbus itself, which must keep its access")


def _create(settings: Settings, user: str, new: Iterable[Rule]) -> None:
    if bindings := [_binding(user, rule) for rule in sorted(new)]:
        admin = _admin(settings)
        asked = admin.create_acls(bindings, request_timeout=SECONDS)
        _wait(f"create the rules of user {user}", asked)


def _delete(settings: Settings, user: str, old: Iterable[Rule]) -> None:
    if filters := [_binding(user, rule, AclBindingFilter) for rule in sorted(old)]:
        admin = _admin(settings)
        asked = admin.delete_acls(filters, request_timeout=SECONDS)
        _wait(f"delete the rules of user {user}", asked)


def _binding(user: str, rule: Rule, kind: type[AclBinding] = AclBinding) -> Any:
    resource = "BROKER" if rule.resource == "cluster" else rule.resource.upper()
    return kind(
        ResourceType[resource],
        rule.name,
        ResourcePatternType[rule.pattern.upper()],
        f"User:{user}",
        rule.host,
        AclOperation[rule.operation.upper()],
        AclPermissionType[rule.permission.upper()],
    )


def _rule(binding: Any) -> Rule:
    resource = binding.restype.name.lower()
    return Rule(
        permission=binding.permission_type.name.lower(),
        resource="cluster" if resource == "broker" else resource,
        pattern=binding.resource_pattern_type.name.lower(),
        name=binding.name,
        operation=binding.operation.name.lower(),
        host=binding.host,
    )


def _admin(settings: Settings) -> AdminClient:
    """Return a client. Keep it in a variable until its requests are answered: it ends with it."""
    return AdminClient(client_settings(settings) | {"log_level": 0})


def _wait(doing: str, asked: Mapping[Any, Future[Any]], absent: int | None = None) -> list[Any]:
    """Return the answers to some requests, or raise the first error as one of the bus's own.

    absent: the code of an error that means that there is nothing to delete.
    """
    found = []
    for answer in asked.values():
        try:
            found.append(answer.result())
        except KafkaException as error:
            if error.args[0].code() != absent:
                raise _failure(doing, error.args[0]) from None
    return found


def _failure(doing: str, error: KafkaError) -> BusError:
    if error.code() in DISABLED:
        return AccessNotManaged(
            f"could not {doing}: this cluster does not keep users or access rules itself "
            f"({error.name()}); make the embedded bus secure with `bus up --secure`, or ask who "
            "runs the cluster to do it"
        )
    if error.code() == KafkaError.CLUSTER_AUTHORIZATION_FAILED:
        return AccessNotManaged(_denied(doing, error.name()))
    return failure(doing, error)


def _denied(doing: str, what: str) -> str:
    return (
        f"could not {doing}: Kafka denies access ({what}); the user of Schoolbus needs ALTER and "
        "DESCRIBE on the cluster, or ask who runs the cluster to do it"
    )
