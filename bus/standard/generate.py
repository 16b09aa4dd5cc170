"""Writes `bus/standard/records.py`, the TypedDicts, from the .avsc.

    python -m bus.standard.generate            writes it
    python -m bus.standard.generate --check    says whether it is up to date (a test does this)

A record is the very dict that fastavro reads and writes, so there is no conversion on the hot path.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

from bus.standard.kinds import KINDS

TARGET = Path(__file__).parent / "records.py"

HEAD = '''"""The records of the standard as Python types. Generated from schemas/*.avsc: do not edit.

Run `python -m bus.standard.generate` after a change of a schema.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Literal, TypedDict
'''

PRIMITIVES = {
    "string": "str",
    "int": "int",
    "long": "int",
    "double": "float",
    "boolean": "bool",
    "null": "None",
}
LOGICAL = {"date": "date", "timestamp-millis": "datetime"}


def render() -> str:
    """The text of records.py."""
    enums: dict[str, str] = {}
    records = [_record(kind.schema, enums) for kind in KINDS.values()]
    return "\n".join([HEAD, *enums.values(), *records])


def _record(schema: dict[str, Any], enums: dict[str, str]) -> str:
    doc = textwrap.fill(schema["doc"], 96, initial_indent="    ", subsequent_indent="    ")
    lines = ["", f"class {schema['name']}(TypedDict):", f'    """{doc.strip()}', '    """', ""]
    for field in schema["fields"]:
        lines.append(f"    {field['name']}: {_type(field['type'], enums)}")
        lines.append(f'    """{field["doc"]}"""')
    return "\n".join([*lines, ""])


def _type(avro: Any, enums: dict[str, str]) -> str:
    if isinstance(avro, list):
        return " | ".join(sorted((_type(t, enums) for t in avro), key=lambda t: t == "None"))
    if isinstance(avro, str):
        return PRIMITIVES.get(avro, avro)
    if avro["type"] == "array":
        return f"list[{_type(avro['items'], enums)}]"
    if avro["type"] == "enum":
        symbols = ",\n".join(f'    "{symbol}"' for symbol in avro["symbols"])
        enums[avro["name"]] = f'{avro["name"]} = Literal[\n{symbols},\n]\n"""{avro["doc"]}"""\n'
        return str(avro["name"])
    return LOGICAL[avro["logicalType"]]


def main() -> None:
    if "--check" in sys.argv:
        if TARGET.read_text("utf-8") != render():
            sys.exit(
                f"{TARGET.name} is not what the schemas say: run {sys.orig_argv[0]} -m {__spec__.name}"
            )
        return
    TARGET.write_text(render(), "utf-8")


if __name__ == "__main__":
    main()
