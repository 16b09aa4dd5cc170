"""Plans what `bus vendors apply` would do: the difference between the files and what was applied.

A missing file does not end an agreement, because a mistake in git must not take the data from a
class in the middle of a lesson. An agreement ends after its last day (`until`), or by `bus vendors
revoke`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from bus.vendors import deletion
from bus.vendors.agreement import Agreement, Identifiers
from bus.vendors.applied import Applied, as_table
from bus.vendors.categories import ALWAYS
from bus.vendors.district_counts import CohortCounts, ScopeChange
from bus.vendors.end_warnings import ends_in, renewal_of, threshold
from bus.vendors.scope import Scope, compile_scope
from bus.vendors.share_check import SCHOOL_FIELDS

Action = Literal["new", "changed", "unchanged", "ended", "over", "missing"]
Count = Callable[[Mapping[str, ScopeChange]], Mapping[str, CohortCounts]]
"""Counts the students of changes, by agreement: `bus.vendors.district_counts.count`."""

FEWEST = 10
"""Groups with fewer students than this give a warning. Pseudonyms hide nobody in a small group."""


@dataclass(frozen=True, slots=True)
class PlannedChange:
    """What applying would do to one agreement.

    action:       new: it has not been applied before. changed: its file differs from what was
                  applied. unchanged: nothing differs. ended: its last day has passed, which is
                  recorded. over: it was ended or revoked before. missing: it is active, but its
                  file is not there, which changes nothing.
    agreement:    the agreement as its file has it; None without a file.
    before:       the agreement as it was applied; None for a new one.
    lines:        the difference, each line with +, ~ or -.
    more_fields:  the fields that the vendor would newly receive.
    fewer_fields: the fields that the vendor would not receive any more.
    counts:       numbers of students; None where nothing changes.
    warnings:     what a person should look at.
    """

    name: str
    action: Action
    agreement: Agreement | None
    before: Applied | None
    lines: tuple[str, ...] = ()
    more_fields: tuple[str, ...] = ()
    fewer_fields: tuple[str, ...] = ()
    counts: CohortCounts | None = None
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the change as JSON values."""
        students = self.counts and {
            "before": self.counts.before,
            "after": self.counts.after,
            "enter": self.counts.enter,
            "leave": self.counts.leave,
        }
        return {
            "name": self.name,
            "action": self.action,
            "lines": self.lines,
            "moreFields": self.more_fields,
            "fewerFields": self.fewer_fields,
            "students": students,
            "warnings": self.warnings,
        }


def plan(
    agreements: Iterable[Agreement], applied: Mapping[str, Applied], day: date, count: Count
) -> list[PlannedChange]:
    """Return what applying would do to each agreement, by name.

    agreements: those of the files.
    applied:    what has been applied before.
    day:        today, in the district's calendar.
    """
    files = {one.name: one for one in agreements}
    names = sorted(files.keys() | applied.keys())
    actions = {name: _action(files.get(name), applied.get(name), day) for name in names}
    changes = {
        name: _scopes(action, files.get(name), applied.get(name))
        for name, action in actions.items()
        if action in ("new", "changed", "ended")
    }
    counts = count(changes)
    found = []
    for name, action in actions.items():
        file, before = files.get(name), applied.get(name)
        ending = tuple(_ending(file, before, [*files.values(), *_stored(applied)], day))
        if name not in changes:
            lines = tuple(_deletion(before, day)) if action == "over" else ()
            found.append(PlannedChange(name, action, file, before, lines, warnings=ending))
            continue
        was, is_ = _fields(changes[name].before), _fields(changes[name].after)
        found.append(
            PlannedChange(
                name,
                action,
                file,
                before,
                (
                    *_lines(action, file, before),
                    *(_deletion(before, day) if action == "ended" else ()),
                ),
                tuple(sorted(is_ - was)),
                tuple(sorted(was - is_)),
                counts[name],
                (*_warnings(changes[name], counts[name], day), *ending),
            )
        )
    return found


def _action(file: Agreement | None, before: Applied | None, day: date) -> Action:
    if before is None:
        return "new"
    if before.over(day):
        return "ended" if before.state == "active" else "over"
    if file is None:
        return "missing"
    return "unchanged" if file == before.agreement else "changed"


def _scopes(action: Action, file: Agreement | None, before: Applied | None) -> ScopeChange:
    return ScopeChange(
        compile_scope(before.agreement) if before is not None else None,
        compile_scope(file) if file is not None and action != "ended" else None,
    )


def _fields(scope: Scope | None) -> set[str]:
    """Return the fields that the vendor receives, without those that every record has."""
    return {
        f"{kind}.{field}"
        for kind, about in (scope.kinds.items() if scope is not None else ())
        for field in about.fields
        if field not in ALWAYS
    }


# ---- the difference ------------------------------------------------------------------------------


def _lines(action: Action, file: Agreement | None, before: Applied | None) -> Iterator[str]:
    if action == "ended" and before is not None:
        yield f"- the last day was {before.agreement.until}"
    elif file is not None and before is None:
        written = file.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        yield from difference({}, {k: v for k, v in written.items() if k != "name"})
    elif file is not None and before is not None:
        yield from difference(as_table(before.agreement), as_table(file))


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Yield the difference of two tables of an agreement, a line for each value.

    A line begins with + for a value that is added, - for one that is taken out, and ~ for one that
    becomes another.
    """
    old, new = dict(_flat(before)), dict(_flat(after))
    for key in dict.fromkeys([*new, *old]):
        was, is_ = old.get(key), new.get(key)
        if was == is_:
            continue
        if isinstance(was, list) or isinstance(is_, list):
            yield from (f"+ {key}: {one}" for one in is_ or () if one not in (was or ()))
            yield from (f"- {key}: {one}" for one in was or () if one not in (is_ or ()))
        elif was is None:
            yield f"+ {key}: {is_}"
        elif is_ is None:
            yield f"- {key}: {was}"
        else:
            yield f"~ {key}: {was} -> {is_}"


def _flat(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        key = f"{path}{name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{key}.")
        elif isinstance(value, list):
            if value:
                yield key, [_one(item) for item in value]
        elif value is not None and value != "":
            yield key, value


def _one(item: Any) -> str:
    """Return an item of a list as text: an id, or a table such as a subprocessor."""
    return ", ".join(map(str, item.values())) if isinstance(item, Mapping) else str(item)


# ---- warnings ------------------------------------------------------------------------------------


def _warnings(change: ScopeChange, counts: CohortCounts, day: date) -> Iterator[str]:
    scope = change.after
    if scope is None:
        return
    agreement = scope.agreement
    if agreement.from_ > day:
        yield f"it begins on {agreement.from_}; the vendor receives nothing before that day"
    if change.before and change.before.agreement.identifiers is not agreement.identifiers:
        yield "all ids of the vendor change, so it loses the data that it keeps under the old ids"
    if counts.after == 0:
        yield "it selects no student today"
    elif counts.after < FEWEST:
        yield f"it selects only {_students(counts.after)}"
    else:
        yield from _small_groups(scope, counts)


def _small_groups(scope: Scope, counts: CohortCounts) -> Iterator[str]:
    """Yield warnings of small groups within a cohort that is large enough."""
    for class_, size in sorted(counts.classes.items()):
        if size < FEWEST:
            yield f"of class {class_} it selects only {_students(size)}"
    if scope.agreement.identifiers is not Identifiers.PSEUDONYMS:
        return
    fields = _fields(scope)
    schools, grades = bool(fields & SCHOOL_FIELDS), "student.grades" in fields
    what = " and ".join([*(["school"] if schools else []), *(["grade"] if grades else [])])
    if not what:
        return
    visible: Counter[Any] = Counter()
    for (orgs, levels), size in counts.groups.items():
        visible[orgs if schools else (), levels if grades else ()] += size
    if small := [size for size in visible.values() if size < FEWEST]:
        groups = "one group" if len(small) == 1 else f"{len(small)} groups"
        yield (
            f"{groups} of the same {what} {'has' if len(small) == 1 else 'have'} fewer than "
            f"{FEWEST} students (the smallest has {min(small)}); somebody may recognize them in "
            "spite of their pseudonyms"
        )


def _ending(
    file: Agreement | None, before: Applied | None, others: Iterable[Agreement], day: date
) -> Iterator[str]:
    """Yield a warning if an agreement ends soon.

    others: all agreements, this one included.
    """
    agreement = before.agreement if file is None and before is not None else file
    if agreement is None or (before is not None and before.over(day)):
        return
    if threshold(agreement, day) is not None:
        renewal = renewal_of(agreement.name, others)
        what = f"; {renewal} renews it" if renewal else ""
        yield f"it {ends_in(agreement, day)}, on {agreement.until}{what}"


def _stored(applied: Mapping[str, Applied]) -> list[Agreement]:
    return [one.agreement for one in applied.values()]


def _deletion(before: Applied | None, day: date) -> Iterator[str]:
    """Yield what `apply` will delete of an agreement that is over."""
    if before is not None and deletion.due(before, day):
        yield (
            "- topics, groups, users, schemas and key: the agreed "
            f"{before.agreement.deletion.days} days have passed"
        )


def _students(number: int) -> str:
    return "one student" if number == 1 else f"{number} students"
