"""Reads a OneRoster CSV extract into the tables that `bus.source` describes.

It reads OneRoster 1.1 CSV (IMS Final Release 2017), OneRoster 1.2 CSV Binding (IMS Final Release
2022), and two files of this bus, attendance.csv and optOuts.csv. Their columns are the fields of
this standard's attendance and optOut records. Values are passed on unchanged;
`bus.ingest.integrity` converts them.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from bus.errors import Stop
from bus.ingest.columns import quoted
from bus.source import Coverage, Fault, Staging
from bus.standard import KINDS
from bus.standard.fault_codes import FaultCode
from producers.oneroster_csv import archive, manifest, users
from producers.oneroster_csv.columns import FILES, UNREAD, File, normal
from producers.oneroster_csv.encoding import Text, as_utf8
from producers.oneroster_csv.manifest import Manifest
from producers.oneroster_csv.rows import load

RULES = "3"
"""The version of the rules by which this source turns files into text. Raise it when the same file
gives different text than before; then all rows are read again. tests/unit/test_rules.py fails
when the version must be raised.
"""


def read(path: Path, staging: Staging) -> None:
    """Fill `staging` from an extract, which is a zip or a folder with CSV files.

    Raises `Stop` when the extract cannot or must not be read. A single file that cannot be read is
    a fault. Its kinds are then not in the coverage, so none of their records is changed or
    withdrawn.
    """
    found = _named(path, archive.files(path, staging.folder), staging)
    declared = manifest.read(found.pop("manifest", None), staging.faults)
    # The largest file is examined while the others are loaded, and is loaded last.
    by_size = sorted(found, key=lambda name: found[name].stat().st_size, reverse=True)
    largest, others = by_size[:1], by_size[1:]
    with ThreadPoolExecutor(2) as executor:
        texts = {
            name: executor.submit(as_utf8, found[name], staging.folder)
            for name in (*largest, *reversed(others))
        }
        for name in sorted(FILES, key=lambda name: name in largest):
            if name == "users":
                _take_users(staging, declared, texts)
            elif name != "roles":
                _take(staging, declared, FILES[name], texts.get(name))


def _named(path: Path, files: list[Path], staging: Staging) -> dict[str, Path]:
    """Return the files by name ("users", "manifest").

    Files that OneRoster does not have are reported and not read.
    """
    found: dict[str, Path] = {}
    unknown = 0
    for file in files:
        name = normal(file.stem)
        if name not in FILES and name != "manifest":
            unknown += name not in UNREAD
        elif name in found:
            raise Stop(f"{path} has two files for {name}.csv; keep one")
        else:
            found[name] = file
    if not found.keys() - {"manifest"}:
        raise Stop(
            f"{path} contains none of the files of OneRoster (orgs.csv, users.csv, …); name a "
            "zip or a folder with a OneRoster CSV extract"
        )
    if unknown:
        reason = f"{unknown} CSV files are not OneRoster files; they were not read"
        code = FaultCode.UNKNOWN_FILE
        staging.faults.append(Fault("", 0, "", "", reason, fatal=False, code=code))
    return found


def _mode(
    staging: Staging, declared: Manifest, file: File, text: Future[Text] | None
) -> Coverage | None:
    """Return how to read a file, or None when it is not read.

    When the declarations are missing or contradictory, choose the mode that withdraws nothing.
    """

    def note(reason: str, code: FaultCode, *, fatal: bool = False) -> None:
        name, kind = f"{file.name}.csv", file.kind
        staging.faults.append(Fault(name, 0, "", "", reason, fatal=fatal, kind=kind, code=code))

    mode = declared.mode(file.name)
    if text is None:
        if mode in ("bulk", "delta"):
            reason = (
                f"manifest.csv declares this file as {mode}, but the extract does not have it; "
                "send the extract again with this file"
            )
            note(reason, FaultCode.MISSING_FILE, fatal=True)
        return None
    if mode == "absent":
        reason = (
            "manifest.csv declares this file as absent, but the extract has it; it was not read"
        )
        note(reason, FaultCode.UNEXPECTED_FILE)
        return None
    if file.kind and KINDS[file.kind].retention == "time":
        return "delta"  # past events remain valid; a file has only the days that it covers
    if mode is None and declared.present:
        reason = "manifest.csv does not name this file; it was read as partial (only changes)"
        note(reason, FaultCode.UNDECLARED_FILE)
        return "delta"
    return mode or "bulk"


def _take(staging: Staging, declared: Manifest, file: File, text: Future[Text] | None) -> None:
    """Read a file whose rows are all of one kind."""
    mode = _mode(staging, declared, file, text)
    if text is not None and mode and load(staging, file, text.result(), f"raw_{file.kind}"):
        staging.coverage[file.kind] = mode
    _expect(staging, declared, file, mode)


def _expect(staging: Staging, declared: Manifest, file: File, mode: Coverage | None) -> None:
    """Record which kinds the extract should have, even if their file could not be read."""
    if mode or declared.mode(file.name) in ("bulk", "delta"):
        staging.expected.update(kind for kind in file.kinds if kind not in staging.coverage)


def _take_users(staging: Staging, declared: Manifest, found: Mapping[str, Future[Text]]) -> None:
    """Read users.csv, and roles.csv if there is one, into students, staff and guardians.

    Many extracts have no guardians. So in a delta extract guardians are in the coverage only when
    it has any.
    """
    file, text = FILES["users"], found.get("users")
    roles, roles_text = FILES["roles"], found.get("roles")
    mode = _mode(staging, declared, file, text)
    roles_mode = _mode(staging, declared, roles, roles_text)
    _expect(staging, declared, file, mode)
    if text is None or mode is None:
        return
    # With roles.csv, the text of a row in users.csv does not decide the kind of the user alone.
    skip_unchanged = not (roles_text and roles_mode)
    if not load(staging, file, text.result(), users.USERS, skip_unchanged=skip_unchanged):
        return
    with_roles = bool(
        roles_text
        and roles_mode
        and load(staging, roles, roles_text.result(), users.ROLES, skip_unchanged=False)
    )
    if with_roles and roles_mode == "delta":
        mode = "delta"
    if users.split(staging, with_roles=with_roles):
        for kind in file.kinds:
            if mode == "bulk" or kind != "guardian" or _any(staging, kind):
                staging.coverage[kind] = mode
                staging.expected.discard(kind)


def _any(staging: Staging, kind: str) -> bool:
    assert kind in KINDS
    return bool(staging.con.execute(f"FROM {quoted(f'raw_{kind}')} LIMIT 1").fetchall())
