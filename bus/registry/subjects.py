"""Looks up, checks and registers schemas in the registry, which enforces the shared standard.

Any registry with Confluent's API works. Subjects are named by topic (TopicNameStrategy:
`schoolbus.student-value`). Compatibility is FULL_TRANSITIVE: every version can be read with every
other. Only `apply` registers schemas of the standard, and only `bus schemas apply` calls it.
`apply_subjects` registers those of vendors (`bus.vendors.vendor_schema`), and only
`bus vendors apply` leads to it. A producer looks schemas up and never registers one. It accepts our
exact schema, or a version that means the same (see `bus.standard.meaning`), so a new text or
attribute in a schema does not stop a producer.

All functions raise the errors of `bus.registry.registry_client.answered`: `RetryLater` if the
registry does not answer, `Stop` if it refuses.

Source: Confluent, "Schema Registry API Reference" (subjects, compatibility, config, error codes).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastavro import parse_schema
from fastavro.schema import SchemaParseException

from bus.errors import BusError, Never, RetryLater, Stop
from bus.registry.registry_client import NOT_THERE, RegistryClient, RegistryError, answered, client
from bus.settings import Settings
from bus.standard.evolution import Whom, breaks
from bus.standard.kinds import KINDS, schema_directory
from bus.standard.meaning import meaning

log = logging.getLogger(__name__)

State = Literal["new", "unchanged", "compatible", "incompatible"]
Takers = Mapping[str, tuple[str, ...]]


LEVEL = "FULL_TRANSITIVE"
"""The compatibility level of all subjects: every version can be read with every other."""

NONE_REGISTERED = "no schema of the standard is registered yet: run `bus schemas apply`"

MOST_NAMED = 3
"""The largest number of subjects that a message names."""


@dataclass(frozen=True, slots=True)
class Finding:
    """How a local schema compares with the registry.

    state:    new: the subject does not exist; unchanged: the registry has this schema, by its own
              comparison, which may or may not include documentation, defaults and attributes that
              are not Avro's; compatible: it would become a new version; incompatible: it would
              break readers. Producers start without a new version if only documentation and such
              attributes differ.
    reasons:  what would break if it is incompatible: the field, why, and for whom.
    products: the installed products that take this kind.
    """

    kind: str
    subject: str
    state: State
    reasons: tuple[str, ...] = ()
    products: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AppliedSchema:
    """A schema that the registry has now.

    registered: whether this run registered it.
    """

    kind: str
    subject: str
    id: int
    version: int
    registered: bool


def subject(settings: Settings, kind: str) -> str:
    """Return the subject of a kind's schema."""
    return f"{settings.topic(kind)}-value"


def lookup(settings: Settings) -> dict[str, int]:
    """Return the registry's ids of our schemas by kind, for producers.

    If the registry does not have exactly our schema, the latest version that means the same counts:
    records have the same bytes under both. A kind without any version is left out, because it may
    have come with an upgrade: see `require`. Raises `Stop` with the subjects whose versions all
    differ from our schema.
    """
    ids: dict[str, int] = {}
    kinds = []
    with client(settings) as registry:
        for kind, about in KINDS.items():
            name = subject(settings, kind)
            if found := _registered(registry, name, about.schema):
                ids[kind] = found[0]
            elif (id_ := _latest_equivalent(registry, name, about.schema)) is not None:
                ids[kind] = id_
            elif not _exists(registry, name):
                continue
            kinds.append(kind)
    if not kinds:
        raise Stop(NONE_REGISTERED)
    if missing := [kind for kind in kinds if kind not in ids]:
        raise Stop(_not_registered(settings, missing))
    return ids


def require(settings: Settings, ids: Mapping[str, int], kinds: Iterable[str]) -> None:
    """Check that these kinds can be published.

    Raises `RetryLater` if one of them has no schema in the registry, as after an upgrade that
    brought a new kind: a person must register it, and then the same input can be published.

    ids: what `lookup` returned.
    """
    if missing := [kind for kind in kinds if kind not in ids]:
        raise RetryLater(_not_registered(settings, missing))


def _not_registered(settings: Settings, kinds: Sequence[str]) -> str:
    missing = [subject(settings, kind) for kind in kinds]
    listed = ", ".join(missing[:MOST_NAMED])
    listed += f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
    are, them = ("are", "them") if len(missing) > 1 else ("is", "it")
    return (
        f"schema {listed} {are} not registered as this version defines {them}: run "
        "`bus schemas apply` (`bus schemas check` shows the differences)"
    )


def lookup_subjects(settings: Settings, schemas: Mapping[str, dict[str, Any]]) -> dict[str, int]:
    """Return the registry's ids of schemas by subject, without the subjects that lack theirs.

    schemas: the schema that each subject should have. Its latest version that means the same counts
             too.
    """
    ids = {}
    with client(settings) as registry:
        for name, schema in schemas.items():
            if found := _registered(registry, name, schema):
                ids[name] = found[0]
            elif (id_ := _latest_equivalent(registry, name, schema)) is not None:
                ids[name] = id_
    return ids


def must_have_some(settings: Settings) -> None:
    """Raise `Stop` if the registry has no schema of the standard.

    In that case nothing has been published that a consumer could read.
    """
    with client(settings) as registry:
        if not any(_exists(registry, subject(settings, kind)) for kind in KINDS):
            raise Stop(NONE_REGISTERED)


def _exists(registry: RegistryClient, name: str) -> bool:
    """Return whether a subject exists.

    A list of all subjects would not say it: a registry may list only some of them. Apicurio
    Registry lists 1,000 by default.
    """
    with answered():
        try:
            return bool(registry.versions(name))
        except RegistryError as error:
            if error.code in NOT_THERE:
                return False
            raise


def schema_by_id(registry: RegistryClient, schema_id: int) -> dict[str, Any]:
    """Return the schema with this id, for reading.

    Raises `Never` if the registry has no such schema, or if it is not an Avro record.
    """
    with answered():
        try:
            text = registry.schema(schema_id)
        except RegistryError as error:
            if error.code not in NOT_THERE:
                raise
            raise Never(
                f"the registry has no schema {schema_id}; correct its producer, which did not "
                "register it"
            ) from None
    try:
        parsed = json.loads(text)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise Never(f"schema {schema_id} in the registry is not an Avro record")
    return parsed


def schema_lookup(settings: Settings) -> Callable[[int], dict[str, Any]]:
    """Return a function from a schema's id to the schema, for `bus.registry.codec.Decoder`.

    The decoder calls it once for each id, so it keeps no connection open.
    """

    def look_up(schema_id: int) -> dict[str, Any]:
        with client(settings) as registry:
            return schema_by_id(registry, schema_id)

    return look_up


def check(
    settings: Settings, schemas_dir: Path | None = None, takers: Takers | None = None
) -> list[Finding]:
    """Return what the schemas in a directory (default: ours) would change, without registering.

    takers: for each kind, the products that take it (`bus.plugins.takers`). The reasons name them.
    """
    local = {
        kind: (subject(settings, kind), schema) for kind, schema in _local(schemas_dir).items()
    }
    with client(settings) as registry:
        return _findings(registry, local, takers)


def apply(
    settings: Settings, schemas_dir: Path | None = None, takers: Takers | None = None
) -> list[AppliedSchema]:
    """Register the schemas in a directory (default: ours), or none if one is incompatible.

    Every subject is set to FULL_TRANSITIVE first. Then the registry is asked once more, so that its
    answer at that level counts. Raises `Stop` with the field and the reason if a schema is
    incompatible with any earlier version.

    A registry has no transactions (Confluent, "Schema Registry API Reference"). If it fails in the
    middle, the error names the subjects that were registered before. Applying again registers the
    rest.
    """
    local = {
        kind: (subject(settings, kind), schema) for kind, schema in _local(schemas_dir).items()
    }
    return apply_subjects(settings, local, takers)


def apply_subjects(
    settings: Settings,
    local: Mapping[str, tuple[str, dict[str, Any]]],
    takers: Takers | None = None,
) -> list[AppliedSchema]:
    """Register schemas as `apply` does; `local` holds the subject and the schema of each kind."""
    applied: list[AppliedSchema] = []
    with client(settings) as registry:
        _require_compatible(_findings(registry, local, takers))
        for name, _ in local.values():
            with answered():
                registry.set_compatibility(name, LEVEL)
        for finding in _require_compatible(_findings(registry, local, takers)):
            with _partial(applied, finding.subject):
                applied.append(_apply(registry, finding, local[finding.kind][1]))
    return applied


def _apply(registry: RegistryClient, finding: Finding, schema: dict[str, Any]) -> AppliedSchema:
    """Register one schema, unless the registry has it."""
    new = finding.state != "unchanged"
    if new:
        with answered():
            registry.register_schema(finding.subject, _text(schema))
    found = _registered(registry, finding.subject, schema)
    if found is None:
        raise Stop(f"the registry accepted {finding.subject} but does not have it; try again")
    return AppliedSchema(finding.kind, finding.subject, *found, registered=new)


@contextmanager
def _partial(applied: list[AppliedSchema], subject: str) -> Iterator[None]:
    """Add to an error at a subject which subjects this call had registered before, if any."""
    try:
        yield
    except BusError as error:
        if not (names := [one.subject for one in applied if one.registered]):
            raise
        text = (
            f"{error}. Before that, {len(names)} of the subjects were registered: "
            f"{', '.join(names)}. They stay, and {subject} may be registered too. "
            "Run `bus schemas apply` again: it registers the rest"
        )
        if isinstance(error, RetryLater):
            raise RetryLater(text, after=error.after) from None
        raise type(error)(text) from None


def names(settings: Settings, beginning: str) -> list[str]:
    """Return the subjects with this beginning of the name, including soft-deleted ones."""
    with client(settings) as registry, answered():
        return sorted(
            name for name in registry.subjects(deleted=True) if name.startswith(beginning)
        )


def delete(settings: Settings, subjects: Iterable[str]) -> None:
    """Delete subjects for good, after a soft deletion, which the API requires.

    Subjects that do not exist are skipped.
    """
    with client(settings) as registry, answered():
        for name in subjects:
            registry.delete_subject(name)
            registry.delete_subject(name, permanent=True)


def registered(settings: Settings) -> list[dict[str, Any]]:
    """Return the standard's subjects in the registry: subject, versions, the latest's id."""
    found = []
    with client(settings) as registry, answered():
        for name in (subject(settings, kind) for kind in KINDS):
            if _exists(registry, name):
                latest = registry.version(name)
                versions = sorted(registry.versions(name))
                found.append({"subject": name, "versions": versions, "id": latest.id})
    return found


def _findings(
    registry: RegistryClient,
    local: Mapping[str, tuple[str, dict[str, Any]]],
    takers: Takers | None,
) -> list[Finding]:
    """Compare each schema with the registry."""
    found = []
    for kind, (name, schema) in local.items():
        products = (takers or {}).get(kind, ())
        if _exists(registry, name):
            found.append(_check(registry, kind, name, schema, products))
        else:
            found.append(Finding(kind, name, "new", products=products))
    return found


def _check(
    registry: RegistryClient,
    kind: str,
    name: str,
    schema: dict[str, Any],
    takers: tuple[str, ...],
) -> Finding:
    exact = _registered(registry, name, schema)
    versions = _versions(registry, name)
    found: dict[tuple[str, str, Whom], list[int]] = {}
    for number, (_, version) in versions.items():
        for broken in breaks(version, schema):
            found.setdefault(broken, []).append(number)
    # What we find counts even if the registry accepts it: it may not be set to FULL_TRANSITIVE yet.
    reasons = [_describe_break(*broken, numbers, takers) for broken, numbers in found.items()]
    state: State = "incompatible" if reasons else "unchanged"
    if not reasons and not exact:
        state = "compatible" if versions else "new"
        with answered():
            if versions and not registry.is_compatible(name, _text(schema)):
                state = "incompatible"
                reasons = ["the registry reports it as incompatible, without the field"]
    return Finding(kind, name, state, tuple(reasons), takers)


def _describe_break(
    field: str, reason: str, whom: Whom, numbers: list[int], takers: tuple[str, ...]
) -> str:
    version = f"version {', '.join(map(str, numbers))}"
    named = f" (here: {', '.join(takers)})" if takers else ""
    if whom == "old readers":
        breaks_for = f"consumers that still use {version}{named}, on records of new producers"
    else:
        breaks_for = (
            f"consumers of the new version{named}, on records that are stored in {version} or that "
            "producers still write with it"
        )
    return f"field {field}: {reason}; it breaks {breaks_for}"


def _require_compatible(findings: list[Finding]) -> list[Finding]:
    """Return the findings if none is incompatible.

    Raises `Stop` with everything that would break if one is incompatible.
    """
    broken = [finding for finding in findings if finding.state == "incompatible"]
    if broken:
        listed = "\n".join(f"  {f.subject}: {reason}" for f in broken for reason in f.reasons)
        raise Stop(f"these schemas break existing ones, so nothing was registered:\n{listed}")
    return findings


def _local(schemas_dir: Path | None) -> dict[str, dict[str, Any]]:
    where = schemas_dir or schema_directory()
    schemas = {}
    for kind in KINDS:
        path = where / f"{kind}.avsc"
        try:
            schemas[kind] = json.loads(path.read_text("utf-8"))
            parse_schema(schemas[kind])
        except OSError:
            raise Stop(
                f"{path} cannot be read; a directory of schemas must have a file for each kind"
            ) from None
        except (ValueError, SchemaParseException, KeyError, TypeError) as error:
            raise Stop(f"{path} is not an Avro schema ({type(error).__name__}: {error})") from None
    return schemas


def _registered(
    registry: RegistryClient, name: str, schema: dict[str, Any]
) -> tuple[int, int] | None:
    """Return the id and version under which a subject has exactly this schema, or None."""
    with answered():
        try:
            found = registry.lookup(name, _text(schema))
        except RegistryError as error:
            if error.code in NOT_THERE:
                return None
            raise
    return found.id, found.version


def _latest_equivalent(registry: RegistryClient, name: str, schema: dict[str, Any]) -> int | None:
    """Return the id of a subject's latest version that means the same as this schema, or None."""
    ours = meaning(schema)
    equivalent_ids = [
        id_ for id_, one in _versions(registry, name).values() if meaning(one) == ours
    ]
    return equivalent_ids[-1] if equivalent_ids else None


def _versions(registry: RegistryClient, name: str) -> dict[int, tuple[int, dict[str, Any]]]:
    """Return the id and schema of each version of a subject, by version number, in order."""
    with answered():
        try:
            numbers = sorted(registry.versions(name))
        except RegistryError as error:
            if error.code in NOT_THERE:
                return {}
            raise
        found = {n: registry.version(name, n) for n in numbers}
        return {n: (one.id, json.loads(one.text)) for n, one in found.items()}


def _text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, ensure_ascii=False)
