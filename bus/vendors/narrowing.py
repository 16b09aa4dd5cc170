"""Changes after which a vendor's topics show more than the agreement says, until they are written.

Meanwhile the vendor may not read. `bus vendors apply` closes the access, before the change takes
effect. `bus vendors run` writes the topics whole, deletes the earlier messages, and opens the
access again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import date

from bus.vendors.agreement import Basis
from bus.vendors.applied import Applied
from bus.vendors.scope import DATED, Scope, compile_scope


def narrows(before: Scope, after: Scope) -> bool:
    """Return whether one scope shows less than another about students who are in both.

    Which students are selected does not count: whom a change excludes is deleted at once. But a
    student who stays may also be at a school or in a class that is not selected any more.
    """
    old, new = before.agreement, after.agreement
    return (
        any(
            kind not in after.kinds or set(about.fields) - set(after.kinds[kind].fields)
            for kind, about in before.kinds.items()
        )
        or (after.since > before.since and not DATED.isdisjoint(before.kinds))
        or (after.pseudonymous and not before.pseudonymous)
        or (new.basis is Basis.STUDIES and old.basis is not Basis.STUDIES)  # times are cut to days
        or _fewer(old.students.schools, new.students.schools)
        or _fewer(old.students.classes, new.students.classes)
    )


def _fewer(before: Collection[str], after: Collection[str]) -> bool:
    """Return whether a selector matches less than before; an empty one matches everything."""
    return bool(after) and (not before or not set(before) <= set(after))


def unwritten(one: Applied, written: Mapping[str, str]) -> bool:
    """Return whether the topics may still show more than the agreement says.

    written: the editions that the topics hold whole (`bus.vendors.written_editions.read_all`).
    """
    return one.narrowed and written.get(one.name) != one.edition


def narrowed(
    one: Applied,
    before: Applied | None,
    known: Iterable[Applied],
    written: Mapping[str, str],
    day: date,
) -> bool:
    """Return whether the vendor's topics may show more than an agreement that is applied now.

    one:     the agreement.
    before:  the agreement as it was applied before; None if it was not.
    known:   all agreements as they are applied now.
    written: the editions that the topics hold whole.
    day:     today, in the district's calendar.
    """
    scope = compile_scope(one.agreement)
    if before is not None and before.agreement.from_ <= day:
        return unwritten(before, written) or narrows(compile_scope(before.agreement), scope)
    # The topics still show the earlier agreements of its chain, if there are some.
    return any(
        unwritten(other, written) or narrows(compile_scope(other.agreement), scope)
        for other in known
        if other.ids_name == one.ids_name
        and other.agreement.from_ < one.agreement.from_
        and not other.deleted
    )
