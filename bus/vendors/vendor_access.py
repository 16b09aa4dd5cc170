"""Gives vendors access to Kafka and to the gate, and takes it away.

A vendor has two Kafka users, `vendor-NAME-a` and `vendor-NAME-b`, used in turn. In SCRAM, each user
has one password, so a rotation with two valid passwords needs two users. NAME is the name in the
vendor's topics (`bus.vendors.applied.Applied.ids_name`). Each user may read the vendor's topics,
with consumer groups under the vendor's prefix, and nothing else.

Kafka never shows a password again (RFC 5802), so `provide` writes it once, into a file for the
vendor. A later call keeps the users, passwords and files that exist.

If the cluster does not let Schoolbus manage users, the functions return what its administrator must
do, and check what the administrator did.
"""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from bus.errors import BusError, Stop
from bus.kafka import access
from bus.kafka.access import AccessNotManaged, Rule
from bus.local import private_file
from bus.settings import Settings
from bus.vendors import gate_address, registry_tokens

CA = "ca.pem"
"""The name of the authority's certificate in the folder of credentials."""

USERNAME, PASSWORD = "BUS_KAFKA__SASL_USERNAME", "BUS_KAFKA__SASL_PASSWORD"
TOKEN = "BUS_REGISTRY__BEARER_TOKEN"


@dataclass(frozen=True, slots=True)
class Grant:
    """What one vendor may read.

    ids_name: the name in its topics.
    topics:   its topics.
    group:    the prefix of its consumer groups.
    closed:   whether it may not read now, because its topics show more than the agreement says
              (`bus.vendors.narrowing`). This counts only for users that Schoolbus manages.
    """

    ids_name: str
    topics: tuple[str, ...]
    group: str
    closed: bool = False

    @property
    def users(self) -> tuple[str, str]:
        """The vendor's two Kafka users."""
        return users_of(self.ids_name)


@dataclass(frozen=True, slots=True)
class Provided:
    """A vendor's present access.

    username:    the Kafka user of the credentials; None if the vendor has no user yet.
    credentials: the file with the credentials; None if there is none.
    ca:          the certificate of the authority; None to trust the authorities of the system.
    notes:       what a person must do.
    """

    username: str | None
    credentials: Path | None
    ca: Path | None
    notes: tuple[str, ...] = ()


def users_of(ids_name: str) -> tuple[str, str]:
    """Return the Kafka users of a vendor."""
    return f"vendor-{ids_name}-a", f"vendor-{ids_name}-b"


def protected(settings: Settings) -> bool:
    """Return whether Kafka authenticates clients, so that vendors can have users."""
    if not settings.embedded:
        return settings.kafka.security_protocol != "plaintext"
    from bus.local.home import is_secure

    return is_secure(settings.home)


def addresses(settings: Settings) -> tuple[str, str]:
    """Return the addresses of Kafka and of the gate for vendors; that of the gate may be ""."""
    bootstrap = settings.vendors.bootstrap or settings.kafka.bootstrap
    if not bootstrap:
        from bus.local import reach

        ends = reach(settings.home)
        bootstrap = ends.vendors or ends.bootstrap
    return bootstrap, settings.vendors.gate_url or gate_address.last_url(settings)


def provide(
    settings: Settings, grants: Iterable[Grant], folder: Path | None
) -> dict[str, Provided]:
    """Give vendors the access that they do not have yet; return the access of each by `ids_name`.

    Keeps users, passwords and files that exist. Corrects the rules of existing users.

    folder: the folder of the credentials files; None: make no users.

    Raises `Stop` if the folder cannot be used or is open to others, and `RetryLater` if Kafka does
    not answer.
    """
    if folder is not None:
        folder = _private(folder)
    ca = _authority(settings, folder)
    try:
        existing = access.users(settings)
    except AccessNotManaged as refusal:
        return {one.ids_name: _by_others(settings, one, folder, ca, str(refusal)) for one in grants}
    rules, grants = access.all_rules(settings), list(grants)
    own = {one.ids_name: _own(settings, one, existing, rules) for one in grants}
    if settings.embedded:
        _limit(settings, [user for users in own.values() for user in users])
    return {
        one.ids_name: _by_us(settings, one, own[one.ids_name], rules, folder, ca) for one in grants
    }


def rotate(settings: Settings, grant: Grant, folder: Path) -> Provided:
    """Make the vendor's other user, and write its credentials. The present user stays valid.

    Raises `Stop` if the vendor has no user, or has two already.
    """
    folder = _private(folder)
    own = _existing(grant, access.users(settings))
    if not own:
        raise Stop(
            f"{grant.ids_name} has no user yet: run `bus vendors apply --credentials {folder}`"
        )
    if len(own) > 1:
        raise Stop(
            f"the last rotation of {grant.ids_name} is not finished: when the vendor uses the "
            f"credentials in {folder}, run `bus vendors rotate {grant.ids_name} --finish "
            f"--credentials {folder}`"
        )
    (new,) = set(grant.users) - set(own)
    ca = _authority(settings, folder)
    notes = _make(settings, grant, new, folder, ca)
    return Provided(new, _file(folder, grant), ca, notes)


def finish(settings: Settings, grant: Grant, folder: Path) -> Provided:
    """End a rotation: delete each user of the vendor that the credentials file does not name.

    Doing it again changes nothing. Raises `Stop` if the file does not name a user that exists.
    """
    folder = _private(folder)
    own = _existing(grant, access.users(settings))
    file = _file(folder, grant)
    kept = _read(file).get(USERNAME)
    if kept not in own:
        raise Stop(
            f"{file} does not name an existing user of {grant.ids_name}, so it is unknown which "
            "user must remain: give the folder to which `bus vendors rotate` has written"
        )
    for user in set(own) - {kept}:
        access.deny_all(settings, user)  # its open connections can then read nothing
        access.delete_user(settings, user)
        registry_tokens.remove_tokens(settings, grant.ids_name, user)
    return Provided(kept, file, _authority(settings, folder))


def restrict(settings: Settings, grant: Grant) -> None:
    """Let the existing users of a vendor read only the topics of the grant; none if it is closed.

    Nothing happens on a cluster that does not let Schoolbus manage users.
    """
    try:
        existing = access.users(settings)
    except AccessNotManaged:
        return
    for user in _existing(grant, existing):
        access.allow(settings, user, grant.topics, grant.group, closed=grant.closed)


def shut_out(settings: Settings, ids_name: str) -> list[str]:
    """Take all access from a vendor.

    Removes the tokens of the gate, denies both users everything, on open connections too, and
    deletes the users. If a step fails, the next ones are still done, and then the first failure is
    raised. The same call may be made again.

    Returns what the cluster's administrator must do, one sentence each.
    """
    notes: list[str] = []
    failures: list[BusError] = []
    registry_tokens.remove_tokens(settings, ids_name)
    if protected(settings):
        for act in (access.deny_all, access.delete_user):
            for user in users_of(ids_name):
                try:
                    act(settings, user)
                except AccessNotManaged as refusal:
                    notes = _closing(settings, ids_name, str(refusal))
                except BusError as failure:
                    failures.append(failure)
    if failures:
        raise failures[0]
    return notes


def holdings(settings: Settings, ids_name: str) -> tuple[tuple[str, ...], int]:
    """Return the users of a vendor that exist or have rules, and how many rules they have.

    Returns no users and 0 if the cluster does not let Schoolbus manage users.
    """
    if not protected(settings):
        return (), 0
    try:
        existing = access.users(settings)
        rules = {user: len(access.rules(settings, user)) for user in users_of(ids_name)}
    except AccessNotManaged:
        return (), 0
    found = tuple(user for user, number in rules.items() if number or user in existing)
    return found, sum(rules.values())


def remove(settings: Settings, grant: Grant) -> list[str]:
    """Delete a vendor's users, tokens, rules and quotas.

    The users are deleted before the rules that deny them everything. What does not exist is
    skipped. Returns what the cluster's administrator must do.

    grant: what the vendor could read.
    """
    registry_tokens.remove_tokens(settings, grant.ids_name)
    if not protected(settings):
        return []
    users = grant.users
    try:
        access.users(settings)
        for user in users:
            access.delete_user(settings, user)
        said = []
        for user in users:
            access.remove_rules(settings, user)
            said.append(access.remove_quota(settings, user))
    except AccessNotManaged as refusal:
        commands = "\n".join(_removal_commands(settings, grant))
        return [
            f"{grant.ids_name}: {refusal}. Ask the cluster's administrator to delete both users, "
            f"their rules and their quotas:\n{commands}"
        ]
    commands = "\n".join(one for one in said if one)
    return (
        [f"ask the cluster's administrator to delete the quotas:\n{commands}"] if commands else []
    )


def _removal_commands(settings: Settings, grant: Grant) -> Iterator[str]:
    for user in grant.users:
        for command in _acl_commands(settings, "--remove", user, grant):
            yield f"{command} --force"
        yield f"{_denial_command(settings, '--remove', user)} --force"


def _existing(grant: Grant, users: set[str]) -> list[str]:
    return [user for user in grant.users if user in users]


def _own(
    settings: Settings, grant: Grant, users: set[str], rules: Mapping[str, Collection[Rule]]
) -> list[str]:
    """Return the existing users of a vendor. Completes a closing of access that was interrupted.

    users: all users of the cluster.
    rules: the rules of all users.
    """
    own = _existing(grant, users)
    if any(rule.permission == "deny" for user in own for rule in rules.get(user, ())):
        shut_out(settings, grant.ids_name)  # the old passwords must not work
        return []
    return own


def _by_us(
    settings: Settings,
    grant: Grant,
    own: list[str],
    rules: Mapping[str, Collection[Rule]],
    folder: Path | None,
    ca: Path | None,
) -> Provided:
    notes: list[str] = []
    file = _file(folder, grant) if folder else None
    if not own:
        if folder is None:
            say = (
                f"{grant.ids_name} has no user yet: `bus vendors apply --credentials DIR` makes it"
            )
            return Provided(None, None, ca, (say,))
        own = [grant.users[0]]
        notes += _make(settings, grant, own[0], folder, ca)
    else:
        for user in own:
            access.allow(
                settings,
                user,
                grant.topics,
                grant.group,
                known=rules.get(user, frozenset()),
                closed=grant.closed,
            )
    named = _read(file).get(USERNAME) if file else None
    if named in own:
        return Provided(named, file, ca, tuple(notes))
    if file:
        notes.append(
            f"{file} does not have the password of {own[0]}, and Kafka shows it to nobody: "
            f"`bus vendors rotate {grant.ids_name} --credentials {folder}` makes another user"
        )
    return Provided(own[0] if len(own) == 1 else None, None, ca, tuple(notes))


def _make(
    settings: Settings, grant: Grant, user: str, folder: Path, ca: Path | None
) -> tuple[str, ...]:
    """Make one user with rules, quota, token and file; return what the administrator must do."""
    access.remove_rules(settings, user)  # those of an earlier user with this name
    access.allow(settings, user, grant.topics, grant.group, closed=grant.closed)
    said = _limit(settings, [user])
    registry_tokens.remove_tokens(settings, grant.ids_name, user)
    password = secrets.token_urlsafe(32)
    token = registry_tokens.new_token(settings, grant.ids_name, user)
    access.create_user(settings, user, SecretStr(password))
    try:
        _write(settings, grant, folder, ca, token, user, password)
    except OSError as error:
        access.delete_user(settings, user)  # nobody knows its password
        registry_tokens.remove_tokens(settings, grant.ids_name, user)
        raise Stop(f"{folder} cannot be written ({error.strerror}); correct its owner") from None
    return (f"ask the cluster's administrator to set the quota of {user}:\n{said}",) if said else ()


def _limit(settings: Settings, users: Collection[str]) -> str:
    limits = settings.vendors
    return access.set_quotas(
        settings,
        users,
        bytes_per_second_in=limits.quota_bytes_in,
        bytes_per_second_out=limits.quota_bytes_out,
        request_percentage=limits.quota_request_percent,
    )


def _by_others(
    settings: Settings, grant: Grant, folder: Path | None, ca: Path | None, why: str
) -> Provided:
    """Return the access of a vendor whose user the cluster's administrator manages.

    The notes say what the administrator must still do.
    """
    user = grant.users[0]
    wanted = access.reading_rules(grant.topics, grant.group)
    try:
        known = set(access.rules(settings, user))
    except AccessNotManaged:
        state = "Schoolbus may not read the rules, so it cannot check them"
    else:
        if known == wanted:
            state = ""
        else:
            state = (
                f"{len(wanted - known)} of the rules are missing, and {len(known - wanted)} other "
                "rules exist"
            )
    notes = []
    if state:
        commands = "\n".join(_acl_commands(settings, "--add", user, grant))
        notes = [
            f"{grant.ids_name}: {why}. Ask the cluster's administrator for a user {user} and these "
            f"rules ({state}):\n{commands}"
        ]
    file = None
    if folder is not None:
        file = _file(folder, grant)
        before = _read(file)
        own = registry_tokens.TokenOwner(grant.ids_name, user)
        if registry_tokens.owner_of(settings, before.get(TOKEN, "")) != own:
            registry_tokens.remove_tokens(settings, grant.ids_name, user)
            token = registry_tokens.new_token(settings, grant.ids_name, user)
            # A person has put the user and the password of the cluster into the file.
            given = before.get(USERNAME, ""), before.get(PASSWORD, "")
            try:
                _write(settings, grant, folder, ca, token, *given)
            except OSError as error:
                raise Stop(f"{folder} cannot be written ({error.strerror})") from None
    return Provided(user, file, ca, tuple(notes))


def _closing(settings: Settings, ids_name: str, why: str) -> list[str]:
    commands = "\n".join(_denial_command(settings, "--add", user) for user in users_of(ids_name))
    return [
        f"{ids_name}: {why}. Ask the cluster's administrator to deny both users everything at "
        f"once, and then to delete them:\n{commands}"
    ]


def _denial_command(settings: Settings, action: str, user: str) -> str:
    rule = ["--deny-principal", f"User:{user}", "--operation", "All"]
    return shlex.join([*_acl(settings, action), *rule, "--topic", "*", "--group", "*"])


def _acl_commands(settings: Settings, action: str, user: str, grant: Grant) -> list[str]:
    start = [*_acl(settings, action), "--allow-principal", f"User:{user}"]
    start += ["--operation", "Read", "--operation", "Describe"]
    named = [part for topic in grant.topics for part in ("--topic", topic)]
    group = ["--group", grant.group, "--resource-pattern-type", "prefixed"]
    return [shlex.join([*start, *named]), shlex.join([*start, *group])]


def _acl(settings: Settings, action: str) -> list[str]:
    command = ["kafka-acls.sh", "--bootstrap-server", settings.kafka.bootstrap]
    return [*command, "--command-config", "admin.properties", action]


def _private(folder: Path) -> Path:
    """Return the folder, which only its owner can read; raises `Stop` otherwise."""
    folder = folder.absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Stop(f"{folder} cannot be created ({error.strerror}); name another folder") from None
    private_file.check_folder(folder)
    return folder


def _authority(settings: Settings, folder: Path | None) -> Path | None:
    """Copy the authority's certificate into the folder, and return it; None if there is none."""
    if not protected(settings):
        return None
    if settings.embedded:
        from bus.local.home import tls

        source = tls(settings.home.absolute()) / CA
    elif settings.kafka.ca_file:
        source = Path(settings.kafka.ca_file).absolute()
    else:
        return None
    if folder is None:
        return source
    try:
        content, copy = source.read_bytes(), folder / CA
        if not copy.exists() or copy.read_bytes() != content:
            private_file.write(copy, content)
    except OSError as error:
        raise Stop(
            f"{source} cannot be copied to {folder} ({error.strerror}); correct the owner"
        ) from None
    return copy


def _file(folder: Path, grant: Grant) -> Path:
    return folder / f"{grant.ids_name}.env"


def _read(file: Path) -> dict[str, str]:
    """Return the settings in a file of credentials; empty if there is none."""
    try:
        lines = file.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Stop(f"{file} cannot be read ({error.strerror}); correct its owner") from None
    pairs = (line.partition("=") for line in lines if not line.startswith("#"))
    return {name: value for name, _, value in pairs if value}


def _write(
    settings: Settings,
    grant: Grant,
    folder: Path,
    ca: Path | None,
    token: str,
    user: str = "",
    password: str = "",
) -> None:
    """Write the settings that a vendor's `subscribe` needs; raises OSError."""
    bootstrap, gate = addresses(settings)
    own = settings.kafka.security_protocol
    protocol = own if own.startswith("sasl_") and not settings.embedded else "sasl_ssl"
    pairs = {
        "BUS_TOPIC_PREFIX": settings.topic_prefix,
        "BUS_KAFKA__BOOTSTRAP": bootstrap,
        "BUS_KAFKA__SECURITY_PROTOCOL": protocol,
        "BUS_KAFKA__SASL_MECHANISM": "SCRAM-SHA-512",
        USERNAME: user,
        PASSWORD: password,
        "BUS_KAFKA__CA_FILE": CA if ca else "",
        "BUS_REGISTRY__URL": gate,
        TOKEN: token,
        "BUS_REGISTRY__CA_FILE": CA if ca and gate.startswith("https:") else "",
    }
    lines: list[str] = [
        f"# The credentials of {grant.ids_name}. Keep them secret: they give access to the data.",
        f"# Keep this file beside {CA}. Run the program in this folder, or set the path of {CA}.",
        *(f"{name}={value}" for name, value in pairs.items() if value),
    ]
    if not user:
        lines.append(f"# {USERNAME} and {PASSWORD}: ask the cluster's administrator")
    if not gate:
        lines.append("# BUS_REGISTRY__URL: ask the district for the address of the gate")
    private_file.write(_file(folder, grant), "\n".join([*lines, ""]).encode())
