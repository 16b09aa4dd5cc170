"""Check and convert the rows that a source read, and leave out the rows that are not valid.

For each kind in the extract, `raw_KIND` (text, see `bus.source`) becomes `record_KIND`. That table
has only the valid rows. Its columns are the fields of the kind in the schema's order with their
types, `_line`, `_file` and `_raw` (see `bus.ingest.row_hashes`). Each error becomes a `Fault`. All
work is SQL generated from the schemas, so millions of rows take seconds. No row passes through
Python.

First, each kind is converted on its own (`convert`). Then references are checked, in dependency
order (`settle`), so that a row is also left out if it requires a row that was left out.

An extract need not have every kind (OneRoster 1.1 and 1.2 CSV Binding, "manifest.csv": a file may
be absent). A reference to a kind that the extract does not have, and that this source has never
published, cannot be checked. It is kept as it is, and reported once with a count. When the kind
comes later, every row that refers to it is checked from then on. Published records remain
published: a row whose required reference proves wrong goes to quarantine, so its record is neither
changed nor withdrawn. An optional reference that proves wrong is removed, which changes the record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from bus.ingest import grades
from bus.ingest.coercion import LEFT_OUT, FaultType, default, reading, value_class
from bus.ingest.columns import columns, quoted
from bus.ingest.workspace import Workspace, WorkTable
from bus.source import Fault
from bus.standard import KINDS
from bus.standard.fault_codes import FaultCode

Known = Callable[[str, list[str]], set[str]]

RULES = 3
"""The version of all rules by which text becomes records.

These are the rules of `bus.ingest.coercion` and of this module, and how hashes are made
(`bus.ingest.columns.fingerprint`, `bus.ingest.row_hashes`). Raise the version when the same text
becomes another record than before. The hashes of published rows then no longer count, and each
source checks all of its rows once more. tests/unit/test_rules.py fails when a new version is due.
"""

MOST = 1_000
"""How many faults of one type in one file are reported one by one. The rest is only a number."""


def validate(workspace: Workspace, known: Known | None = None) -> dict[str, int]:
    """Make `record_KIND` from `raw_KIND` for each kind in the extract, and add to the faults.

    known: returns which of these ids another source has published as records of a kind. It is
           called at most once for each kind. It gets the ids that are neither in the extract nor in
           `known_KIND`, if that table or view exists.

    Returns for each kind how many rows were left out because of a fatal fault. If rows agree in all
    fields, the first is kept. The others are not counted, because nothing is lost with them.
    """
    kinds = [kind for kind in KINDS if kind in workspace.staging.coverage]
    workspace.require(*map(workspace.raw, kinds))
    run = _Run(workspace, known, kinds)
    workspace.sql(
        f"CREATE OR REPLACE TEMP TABLE {workspace.doubtful} "
        "(kind VARCHAR, file VARCHAR, line BIGINT)"
    )
    left_out = {kind: run.convert(kind) for kind in kinds}
    for kind in kinds:
        left_out[kind] += run.settle(kind)
    for kind in kinds:
        run.note_grades(kind)
        run.forget_hashes(kind)
    return left_out


def unchecked(workspace: Workspace) -> dict[str, list[str]]:
    """Return the fields whose references cannot be checked, for each kind in the extract."""
    kinds = [kind for kind in KINDS if kind in workspace.staging.coverage]
    return {
        kind: [name for name in KINDS[kind].references if _uncarried(workspace, kind, name)]
        for kind in kinds
    }


def _uncarried(workspace: Workspace, kind: str, name: str) -> list[str]:
    """Return the kinds to which a field may refer, but whose records are not known.

    Such a kind is not in the extract, and this source has never published a record of it.
    """
    staging = workspace.staging
    return [
        target
        for target in KINDS[kind].references[name]
        if target not in staging.coverage
        and target not in staging.expected
        and not (
            workspace.has(known := workspace.known(target))
            and workspace.sql(f"SELECT 1 FROM {known} LIMIT 1")
        )
    ]


def without_id(fault: Fault) -> bool:
    """Return whether a fault of `sourcedId` says that the row has no usable id."""
    return fault.value_class == "empty" or fault.code == FaultCode.NOT_AN_ID


@dataclass(slots=True)
class _Run:
    """One validation, see `validate`.

    settled:   the kinds whose records are final.
    elsewhere: the kinds about which `known` was asked. Its answer is in `elsewhere_KIND`.
    """

    workspace: Workspace
    known: Known | None
    kinds: list[str]
    settled: set[str] = field(default_factory=set)
    elsewhere: set[str] = field(default_factory=set)

    # Each kind on its own

    def convert(self, kind: str) -> int:
        """Make `record_KIND`, with references unchecked, and return how many rows were left out."""
        workspace = self.workspace
        record, raw = workspace.record(kind), workspace.raw(kind)
        there = workspace.columns_of(raw)
        select, types = reading(kind, raw, there)
        workspace.sql(f"CREATE OR REPLACE TABLE {record} AS {select}")
        if workspace.number(f"SELECT count(_worst) FROM {record}"):
            select, _ = reading(kind, raw, there, faults=True)
            found = f"SELECT _file, _line, unnest(_faults) AS f FROM ({select})"
            self.report(
                kind,
                types,
                "SELECT _file, _line, f.code AS code, f.class AS class, f.text AS text, "
                f"NULL AS kept FROM ({found}) WHERE f IS NOT NULL",
            )
        left_out = workspace.number(f"DELETE FROM {record} WHERE _worst < 0")
        workspace.sql(f"ALTER TABLE {record} DROP COLUMN _worst")
        return left_out + self._single(kind)

    def _single(self, kind: str) -> int:
        """Keep one row of each id, and return how many rows were left out.

        The kept row is the one that was modified last, or the first one.
        """
        workspace = self.workspace
        record, repeated = workspace.record(kind), workspace.repeated
        fields = ", ".join(quoted(name) for name in columns(kind))
        # Find repeated ids by hash: hashes of millions of ids fit in memory, the ids may not.
        several = f"SELECT hash(sourcedId) FROM {record} GROUP BY 1 HAVING count(*) > 1"
        if not workspace.number(f"SELECT count(*) FROM ({several})"):
            return 0
        workspace.sql(
            f"""
            CREATE OR REPLACE TEMP TABLE {repeated} AS
            SELECT r, _line, _file, class, _values IS NOT DISTINCT FROM first._values AS same,
                CASE WHEN first._file = _file THEN format('line {{}}', first._line)
                    ELSE format('line {{}} of {{}}', first._line, first._file) END AS kept
            FROM (
                SELECT *, row_number() OVER w AS n, first_value(
                    {{'_line': _line, '_file': _file, '_values': _values}}) OVER w AS first
                FROM (
                    SELECT rowid AS r, _line, _file, sourcedId, dateLastModified,
                        {value_class("sourcedId")} AS class, row({fields}) AS _values
                    FROM {record} WHERE hash(sourcedId) IN ({several})
                )
                WINDOW w AS (PARTITION BY sourcedId
                    ORDER BY dateLastModified DESC NULLS LAST, _file, _line, r)
            ) WHERE n > 1
            """
        )
        types = [
            FaultType(
                "sourcedId",
                "the row has the same id and the same values as {kept}; only one of them was used; "
                "nothing is lost, but you can remove one of them in the SIS",
                False,
                FaultCode.REPEATED_ROW,
            ),
            FaultType(
                "sourcedId",
                f"the row has the same id as {{kept}}, which was kept, but different values; "
                f"{LEFT_OUT}",
                True,
                FaultCode.DUPLICATE_ID,
            ),
        ]
        self.report(
            kind,
            types,
            "SELECT _file, _line, CASE WHEN same THEN 1 ELSE 2 END AS code, class, kept "
            f"FROM {repeated}",
        )
        workspace.sql(f"DELETE FROM {record} WHERE rowid IN (SELECT r FROM {repeated})")
        return workspace.number(f"SELECT count(*) FROM {repeated} WHERE NOT same")

    # References between records

    def settle(self, kind: str) -> int:
        """Check the references of a kind, and return how many rows were left out."""
        references = KINDS[kind].references
        kept = [name for name in references if _uncarried(self.workspace, kind, name)]
        required = [name for name in KINDS[kind].required if name not in kept]
        others = [name for name in references if name not in (*required, *kept)]
        left_out = self._require(kind, required)
        self.settled.add(kind)
        for name in kept:
            if self._dangling(kind, name):
                self._note_kept(kind, name)
        # References to the same kind come last, when it is final which of its records remain.
        for name in sorted(others, key=lambda name: kind in references[name]):
            if self._dangling(kind, name):
                reason = _absent(
                    references[name],
                    "the row was kept without this reference; send that record too, or correct the "
                    "id in the SIS",
                )
                self._drop(kind, name, reason, FaultCode.UNKNOWN_REFERENCE)
            if kind in references[name] and not self._is_list(kind, name):
                self._break_circles(kind, name)
        return left_out

    def _require(self, kind: str, names: Iterable[str]) -> int:
        """Leave out rows whose required references do not exist, and return how many."""
        workspace = self.workspace
        record, doomed = workspace.record(kind), workspace.doomed
        workspace.sql(f"CREATE OR REPLACE TEMP TABLE {doomed} (r BIGINT)")
        for name in names:
            if self._dangling(kind, name):
                reason = _absent(
                    KINDS[kind].references[name],
                    "the row was left out; send that record too, or correct the id in the SIS",
                )
                self._report_bad(kind, FaultType(name, reason, True, FaultCode.UNKNOWN_REFERENCE))
                workspace.sql(f"INSERT INTO {doomed} SELECT r FROM {workspace.bad}")
        return workspace.number(f"DELETE FROM {record} WHERE rowid IN (SELECT r FROM {doomed})")

    def _is_list(self, kind: str, name: str) -> bool:
        return columns(kind)[name].endswith("[]")

    def _naming(self, kind: str, name: str) -> str:
        """Return SQL for (r, id): each id that a field refers to. Withdrawn records are exempt."""
        id_ = f"unnest({quoted(name)})" if self._is_list(kind, name) else quoted(name)
        return (
            f"SELECT rowid AS r, {id_} AS id FROM {self.workspace.record(kind)} "
            f"WHERE status = 'active' AND {quoted(name)} IS NOT NULL"
        )

    def _dangling(self, kind: str, name: str) -> bool:
        """Make `bad(r, id)`, and return whether it has any rows.

        It has the rows of records that refer to an unknown id, each with one of these ids.
        """
        workspace, targets = self.workspace, KINDS[kind].references[name]
        dangling, bad = workspace.dangling, workspace.bad
        workspace.sql(f"CREATE OR REPLACE TEMP TABLE {dangling} AS {self._not_here(kind, name)}")
        for target in targets:
            if not workspace.number(f"SELECT count(*) FROM {dangling}"):
                return False
            if workspace.has(known := workspace.known(target)):
                self._found(known)
        for target in targets:
            if not workspace.number(f"SELECT count(*) FROM {dangling}"):
                return False
            if self.known:
                self._ask(kind, target, self.known)
                self._found(workspace.elsewhere(target))
        workspace.sql(
            f"CREATE OR REPLACE TEMP TABLE {bad} AS SELECT r, min(id) AS id "
            f"FROM ({self._naming(kind, name)}) WHERE id IN (SELECT id FROM {dangling}) GROUP BY r"
        )
        return workspace.number(f"SELECT count(*) FROM {bad}") > 0

    def _not_here(self, kind: str, name: str) -> str:
        """Return SQL for the ids that a field refers to and that no record in the extract has.

        Only active records of kinds that are final, or of the same kind, count.
        """
        final = [
            target
            for target in KINDS[kind].references[name]
            if target in self.settled or (target == kind and target in self.kinds)
        ]
        absent = "".join(
            f" AND NOT EXISTS (FROM {self.workspace.record(target)} t "
            "WHERE t.sourcedId = n.id AND t.status = 'active')"
            for target in final
        )
        return f"SELECT DISTINCT id FROM ({self._naming(kind, name)}) n WHERE true{absent}"

    def _found(self, table: WorkTable) -> None:
        """Remove the ids in a table from `dangling`.

        It does not matter that this extract may withdraw such a record. Products have it, withdrawn
        or not, so a reference to it is not wrong.
        """
        self.workspace.sql(
            f"DELETE FROM {self.workspace.dangling} WHERE id IN (SELECT sourcedId FROM {table})"
        )

    def _ask(self, kind: str, target: str, known: Known) -> None:
        """Make `elsewhere_KIND` once, for all ids that this kind and later kinds refer to."""
        if target in self.elsewhere:
            return
        self.elsewhere.add(target)
        unsettled = self.kinds[self.kinds.index(kind) :]
        wanted = " UNION ".join(
            self._not_here(other, name)
            for other in unsettled
            for name, targets in KINDS[other].references.items()
            if target in targets
        )
        workspace = self.workspace
        ours = workspace.known(target)
        unpublished = f" AND id NOT IN (SELECT sourcedId FROM {ours} WHERE sourcedId IS NOT NULL)"
        ids = workspace.sql(
            f"SELECT id FROM ({wanted}) WHERE true"
            + (unpublished if workspace.has(ours) else "")
            + " ORDER BY id"
        )
        found = known(target, [str(row[0]) for row in ids]) if ids else set()
        workspace.sql(
            f"CREATE OR REPLACE TEMP TABLE {workspace.elsewhere(target)} AS "
            "SELECT unnest(?::VARCHAR[]) AS sourcedId",
            [sorted(found)],
        )

    def _drop(self, kind: str, name: str, reason: str, code: FaultCode) -> None:
        """Remove an optional reference from the rows in `bad`.

        From a list, only the ids in `dangling` are removed.
        """
        self._report_bad(kind, FaultType(name, reason, False, code))
        workspace = self.workspace
        record, bad, mended = workspace.record(kind), workspace.bad, workspace.mended
        if not self._is_list(kind, name):
            instead = default(next(f for f in KINDS[kind].schema["fields"] if f["name"] == name))
            workspace.sql(
                f"UPDATE {record} SET {quoted(name)} = {instead} "
                f"WHERE rowid IN (SELECT r FROM {bad})"
            )
            return
        workspace.sql(
            f"""
            CREATE OR REPLACE TEMP TABLE {mended} AS
            SELECT r, coalesce(list(id ORDER BY i)
                FILTER (id NOT IN (SELECT id FROM {workspace.dangling})), []) AS ids
            FROM (
                SELECT rowid AS r, unnest({quoted(name)}) AS id,
                    generate_subscripts({quoted(name)}, 1) AS i
                FROM {record} WHERE rowid IN (SELECT r FROM {bad})
            ) GROUP BY r
            """
        )
        workspace.sql(
            f"UPDATE {record} SET {quoted(name)} = m.ids FROM {mended} m WHERE {record}.rowid = m.r"
        )

    def _break_circles(self, kind: str, name: str) -> None:
        """Remove the reference of each record that is its own ancestor.

        Each record refers to one other record. A record from which one can take as many steps as
        there are records leads into a circle. Each round doubles the steps. The steps end on the
        records of the circle. Nobody can say which of their references is wrong, so all of them are
        removed.
        """
        workspace = self.workspace
        record, jump, up = workspace.record(kind), workspace.jump, quoted(name)
        workspace.sql(
            f"CREATE OR REPLACE TEMP TABLE {jump} AS SELECT sourcedId AS id, {up} AS up "
            f"FROM {record} WHERE status = 'active' AND {up} IS NOT NULL"
        )
        left = workspace.number(f"SELECT count(*) FROM {jump}")
        for _ in range(left.bit_length()):
            workspace.sql(
                f"CREATE OR REPLACE TEMP TABLE {jump} AS "
                f"SELECT a.id, b.up FROM {jump} a JOIN {jump} b ON a.up = b.id"
            )
            left = workspace.number(f"SELECT count(*) FROM {jump}")
            if not left:
                return
        if left:
            workspace.sql(
                f"CREATE OR REPLACE TEMP TABLE {workspace.bad} AS "
                f"SELECT rowid AS r, {up} AS id FROM {record} "
                f"WHERE status = 'active' AND sourcedId IN (SELECT up FROM {jump})"
            )
            reason = (
                "the field leads in a circle back to the record itself; the row was kept without "
                "this reference; correct it in the SIS"
            )
            self._drop(kind, name, reason, FaultCode.CIRCULAR_REFERENCE)

    def forget_hashes(self, kind: str) -> None:
        """Remove `_raw` from records that have a fault or refer to a record of another source.

        Their rows are checked again when they come again.
        """
        workspace = self.workspace
        record = workspace.record(kind)
        workspace.sql(
            f"UPDATE {record} SET _raw = NULL WHERE EXISTS (FROM {workspace.doubtful} t "
            f"WHERE t.kind = '{kind}' AND t.line = _line AND t.file = _file)"
        )
        for name, targets in KINDS[kind].references.items():
            for target in self.elsewhere.intersection(targets):
                workspace.sql(
                    f"UPDATE {record} SET _raw = NULL WHERE rowid IN (SELECT r "
                    f"FROM ({self._naming(kind, name)}) WHERE id IN "
                    f"(SELECT sourcedId FROM {workspace.elsewhere(target)}))"
                )

    # Faults

    def _report_bad(self, kind: str, type_: FaultType) -> None:
        """Add a fault for each row in `bad`."""
        record, bad = self.workspace.record(kind), self.workspace.bad
        self.report(
            kind,
            [type_],
            f"SELECT _file, _line, 1 AS code, {value_class('b.id')} AS class, NULL AS kept "
            f"FROM {record} r JOIN {bad} b ON b.r = r.rowid",
        )

    def _note_kept(self, kind: str, name: str) -> None:
        """Report the rows in `bad`, which stay as they are, once for each file."""
        record, bad = self.workspace.record(kind), self.workspace.bad
        rows = f"SELECT _file, _line FROM {record} r JOIN {bad} b ON b.r = r.rowid"
        self._mark_doubtful(kind, rows)
        targets = _uncarried(self.workspace, kind, name)
        groups = self.workspace.sql(
            f"SELECT coalesce(_file, ''), count(*) FROM ({rows}) GROUP BY 1 ORDER BY 1"
        )
        for file, number in groups:
            reason = (
                f"the field refers to {_one_of(targets)}, but this extract has no file for them "
                "and this source has never published any; the rows were kept with the reference "
                f"unchecked; send those records too to have it checked; {_rows_have(number)}"
            )
            self.workspace.staging.faults.append(
                Fault(file, 0, name, "", reason, False, kind, FaultCode.UNCHECKED_REFERENCE, number)
            )

    def note_grades(self, kind: str) -> None:
        """Report each grade that is not in the standard's list once, with a count."""
        if "grades" not in columns(kind):
            return
        each = f"SELECT _file, _line, unnest(grades) AS text FROM {self.workspace.record(kind)}"
        reason = (
            f"the grade is not one of {', '.join(grades.GRADES)}; the rows were kept with this "
            "grade; use one of these codes in the SIS"
        )
        self.report(
            kind,
            [FaultType("grades", reason, False, FaultCode.NOT_IN_LIST, once=True)],
            f"SELECT _file, _line, 1 AS code, {value_class('text')} AS class, text, NULL AS kept "
            f"FROM ({each}) WHERE {grades.unlisted('text')}",
        )

    def _mark_doubtful(self, kind: str, rows: str) -> None:
        """Record that rows have a fault (SQL: `_file`, `_line`)."""
        self.workspace.sql(
            f"INSERT INTO {self.workspace.doubtful} SELECT '{kind}', _file, _line FROM ({rows})"
        )

    def report(self, kind: str, types: list[FaultType], found: str) -> None:
        """Add faults from SQL that gives `_file, _line, code, class, kept`; code 1 means types[0].

        The SQL gives `text` as well if some types of fault are reported once for each distinct
        text.
        """
        workspace, faulty = self.workspace, self.workspace.faulty
        # Run `found` only once. It may use every field of a kind, and DuckDB plans that slowly.
        workspace.sql(f"CREATE OR REPLACE TEMP TABLE {faulty} AS {found}")
        if not workspace.number(f"SELECT count(*) FROM {faulty}"):
            return
        self._mark_doubtful(kind, f"FROM {faulty}")
        once = ", ".join(str(code) for code, type_ in enumerate(types, 1) if type_.once)
        self._report_each(kind, types, f"FROM {faulty} WHERE code NOT IN ({once or 0})")
        if once:
            self._report_once(kind, types, f"FROM {faulty} WHERE code IN ({once})")

    def _report_each(self, kind: str, types: list[FaultType], found: str) -> None:
        """Add a fault for each row."""
        groups = self.workspace.sql(
            f"""
            SELECT coalesce(_file, ''), code, count(*), min({{
                'line': coalesce(_line, 0), 'class': class, 'kept': CAST(kept AS VARCHAR)
            }}, {MOST})
            {found} GROUP BY 1, 2 ORDER BY 1, 2
            """
        )
        faults = self.workspace.staging.faults
        for file, code, number, first in groups:
            type_ = types[code - 1]
            for one in first:
                reason = type_.reason.replace("{kept}", one["kept"] or "")
                faults.append(
                    Fault(
                        file,
                        one["line"],
                        type_.column,
                        one["class"],
                        reason,
                        type_.fatal,
                        kind,
                        type_.code,
                    )
                )
            if number > len(first):
                reason = type_.reason.replace("{kept}", "another row")
                left = number - len(first)
                more = f"{left:,} more rows with the same fault: {reason}"
                faults.append(
                    Fault(file, 0, type_.column, "", more, type_.fatal, kind, type_.code, left)
                )

    def _report_once(self, kind: str, types: list[FaultType], found: str) -> None:
        """Add a fault for each distinct text, with the number of rows that have it.

        The fault is at the first of these rows. The most frequent texts come first.
        """
        groups = self.workspace.sql(
            f"""
            SELECT *, count(*) OVER (PARTITION BY file, code) AS texts,
                sum(number) OVER (PARTITION BY file, code) AS rows_of_all
            FROM (
                SELECT coalesce(_file, '') AS file, code, count(*) AS number,
                    coalesce(min(_line), 0) AS line, min(class) AS class
                {found} GROUP BY 1, 2, text
            )
            QUALIFY row_number() OVER (PARTITION BY file, code ORDER BY number DESC, line) <= {MOST}
            ORDER BY file, code, number DESC, line
            """
        )
        faults, cut = self.workspace.staging.faults, {}
        reported: Counter[tuple[str, int]] = Counter()
        for file, code, number, line, class_, texts, rows in groups:
            type_ = types[code - 1]
            reason = f"{type_.reason}; {_rows_have(number)}"
            about = type_.column, class_, reason, type_.fatal, kind
            faults.append(Fault(file, line, *about, type_.code, number))
            reported[file, code] += number
            if texts > MOST:
                cut[file, code] = texts - MOST, int(rows) - reported[file, code]
        for (file, code), (number, left) in cut.items():
            type_ = types[code - 1]
            more = f"{number:,} more values with the same fault: {type_.reason}"
            faults.append(
                Fault(file, 0, type_.column, "", more, type_.fatal, kind, type_.code, left)
            )


def _absent(targets: tuple[str, ...], consequence: str) -> str:
    return (
        f"the field refers to {_one_of(targets)} that is not a valid, active record of this "
        f"extract and was not published before; {consequence}"
    )


def _one_of(kinds: Sequence[str]) -> str:
    article = "an" if kinds[0][0] in "aeiou" else "a"
    return f"{article} {' or '.join(kinds)}"


def _rows_have(number: int) -> str:
    return "this affects 1 row" if number == 1 else f"this affects {number:,} rows"
