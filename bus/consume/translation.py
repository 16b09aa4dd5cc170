"""Runs a product's translation over many records, and separates what it cannot translate."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bus.consume.dependency_order import KindRecords
from bus.delivery import Part, Row, Translate
from bus.errors import Never
from bus.product import Product
from bus.standard.fault_codes import FaultCode, Reason

if TYPE_CHECKING:
    from confluent_kafka import Message


def translate(
    product: Product, by_kind: Mapping[str, KindRecords]
) -> tuple[list[Part], Counter[str], list[tuple[Message, str]]]:
    """Translate records to parts of rows, in the product's table order.

    Returns the parts, how many records of each kind are delivered, and (message, reason) for the
    dead letters. If one table cannot take a record, no table gets it.
    """
    failed: dict[str, dict[int, str]] = {kind: {} for kind in by_kind}
    made: list[tuple[int, str, Part, list[Row | None]]] = []
    for order, table in enumerate(product.tables):
        for kind, kind_records in by_kind.items():
            if kind in table.rows:
                rows = _rows(table.rows[kind], kind_records, failed[kind])
                part = Part(table, kind, [], kind_records.records, kind_records.messages)
                made.append((order, kind, part, rows))
    delivered: dict[str, set[int] | int] = {}
    parts = []
    for _, kind, part, rows in made:
        left_out = failed[kind].keys()
        if not left_out and None not in rows:
            part.rows = rows  # type: ignore[assignment]
            delivered[kind] = len(rows)
        else:
            keep = [i for i, row in enumerate(rows) if row is not None and i not in left_out]
            part.rows = [rows[i] for i in keep]  # type: ignore[misc]
            part.records = [part.records[i] for i in keep]
            part.messages = [part.messages[i] for i in keep]
            before = delivered.get(kind, set())
            delivered[kind] = before if isinstance(before, int) else before | set(keep)
        if part.rows:
            parts.append(part)
    numbers = Counter({k: n if isinstance(n, int) else len(n) for k, n in delivered.items()})
    failures = [
        (by_kind[kind].messages[index], reason)
        for kind, reasons in failed.items()
        for index, reason in reasons.items()
    ]
    return parts, numbers, failures


def _rows(
    function: Translate, kind_records: KindRecords, failed: dict[int, str]
) -> list[Row | None]:
    """Translate all records at once. If one fails, translate them one by one to find it."""
    try:
        return [function(record) for record in kind_records.records]
    except Exception:  # a translation may raise anything; its record is found below
        rows: list[Row | None] = []
        for index, record in enumerate(kind_records.records):
            try:
                rows.append(function(record))
            except Never as reason:
                failed[index] = Reason(str(reason), reason.code or FaultCode.UNTRANSLATABLE)
                rows.append(None)
            except Exception as error:
                failed[index] = Reason(
                    f"the translation failed ({_described(error)}); fix it, then retry this record",
                    FaultCode.TRANSLATION_FAILED,
                )
                rows.append(None)
        return rows


def _described(error: Exception) -> str:
    """Describe an error in a product's code: its type, the missing key, the line.

    An error's text may hold a value of the record, and so may a key. A key is named only when the
    code itself spells it out, as in `record["homeRoom"]`.
    """
    frames = list(traceback.walk_tb(error.__traceback__))[1:]  # the first is that of `_rows`
    if not frames:  # the function is not written in Python
        return type(error).__name__
    folder = Path(frames[0][0].f_code.co_filename).parent
    inside = [one for one in frames if folder in Path(one[0].f_code.co_filename).parents]
    frame, line = inside[-1]
    key = error.args[0] if isinstance(error, KeyError) and error.args else None
    named = f" {key!r}" if isinstance(key, str) and key in frame.f_code.co_consts else ""
    file = Path(frame.f_code.co_filename)
    return f"{type(error).__name__}{named} at {file.parent.name}/{file.name}:{line}"
