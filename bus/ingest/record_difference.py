"""List what a run would change, record by record, with masked values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from bus.ingest.columns import NOT_COMPARED, columns, quoted
from bus.ingest.workspace import Workspace
from bus.standard.masking import masked

CHANGES = ("created", "updated", "withdrawn")


@dataclass(frozen=True, slots=True)
class RecordDifference:
    """A record that a run would publish.

    change: created, updated or withdrawn.
    fields: for an updated record, each changed field with its value before and after, masked (see
            `bus.standard.masking`).
    """

    kind: str
    id: str
    change: str
    fields: dict[str, tuple[str, str]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the difference as `--json` prints it, with named values before and after."""
        fields = {n: {"before": b, "after": a} for n, (b, a) in self.fields.items()}
        return {**asdict(self), "fields": fields}


def differences(workspace: Workspace, kinds: Iterable[str], most: int) -> list[RecordDifference]:
    """Return the first changes of `change_KIND`, at most `most` of each kind and change."""
    found = []
    for kind in kinds:
        for change in CHANGES:
            found += _of(workspace, kind, change, most)
    return found


def _of(workspace: Workspace, kind: str, change: str, most: int) -> list[RecordDifference]:
    table, before = workspace.change(kind), workspace.published(kind)
    workspace.require(table, before)
    first = (
        f"SELECT * FROM {table} WHERE _change = '{change}' AND NOT _moved "
        f"ORDER BY _line, sourcedId LIMIT {most}"
    )
    if change != "updated":
        rows = workspace.sql(f"SELECT sourcedId FROM ({first})")
        return [RecordDifference(kind, id_, change) for (id_,) in rows]
    names = [name for name in columns(kind) if name not in NOT_COMPARED]
    now = ", ".join(f"c.{quoted(name)}" for name in names)
    then = ", ".join(f"b.{quoted(name)}" for name in names)
    rows = workspace.sql(
        f"SELECT c.sourcedId, {now}, {then} FROM ({first}) c "
        f"JOIN {before} b ON b.sourcedId = c.sourcedId ORDER BY c._line, c.sourcedId"
    )
    found = []
    for id_, *values in rows:
        after = dict(zip(names, values[: len(names)], strict=True))
        earlier = dict(zip(names, values[len(names) :], strict=True))
        differ = [name for name in names if after[name] != earlier[name]]
        after_masked, before_masked = masked(kind, after), masked(kind, earlier)
        fields = {
            name: (before_masked[name], _other(after_masked[name], before_masked[name]))
            for name in differ
        }
        found.append(RecordDifference(kind, id_, change, fields))
    return found


def _other(after: str, before: str) -> str:
    """Return the value after. If it looks like the value before when masked, mark it as changed."""
    return f"{after} (changed)" if after == before else after
