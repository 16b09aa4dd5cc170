"""Writes `bus/standard/records.py`, the TypedDicts, from the .avsc files.

    python -m bus.standard.generate            writes the file
    python -m bus.standard.generate --check    checks that it is up to date (a test does this)

A record is the dict that fastavro reads and writes, so nothing is converted on the hot path. The
output has the layout of `ruff format`, so that formatting the repository does not change it.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

from bus.standard.kinds import KINDS

TARGET = Path(__file__).parent / "records.py"

HEAD = '''"""The records of the standard as Python types.

Generated from schemas/*.avsc; do not edit. After you change a schema, run
`python -m bus.standard.generate`.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Literal, TypedDict
'''

PRIMITIVES = {
    "string": "str",
    "int": "int",
    "long": "int",
    "float": "float",
    "double": "float",
    "boolean": "bool",
    "null": "None",
}
LOGICAL = {"date": "date", "timestamp-millis": "datetime"}


def render() -> str:
    """Return the text of records.py."""
    enums: dict[str, str] = {}
    records = [_record(kind.schema, enums) for kind in KINDS.values()]
    return "\n".join([HEAD, *enums.values(), *records])


def _record(schema: dict[str, Any], enums: dict[str, str]) -> str:
    lines = ["", f"class {schema['name']}(TypedDict):", *_doc(schema["doc"]), ""]
    for field in schema["fields"]:
        lines.append(f"    {field['name']}: {_type(field['type'], enums)}")
        lines.append(f'    """{field["doc"]}"""')
    return "\n".join([*lines, ""])


def _doc(text: str) -> list[str]:
    """Return a docstring in lines of at most 100 characters.

    If it is too long for one line, the first sentence is the summary line.
    """
    if len(text) <= 90:
        return [f'    """{text}"""']
    summary, _, details = text.partition(". ")
    indent = "    "
    wrapped = textwrap.wrap(details, 100, initial_indent=indent, subsequent_indent=indent)
    return [f'    """{summary}.', "", *wrapped, '    """']


def _type(avro: Any, enums: dict[str, str]) -> str:
    if isinstance(avro, list):
        return " | ".join(sorted((_type(t, enums) for t in avro), key=lambda t: t == "None"))
    if isinstance(avro, str):
        return PRIMITIVES.get(avro, avro)
    if avro["type"] == "array":
        return f"list[{_type(avro['items'], enums)}]"
    if avro["type"] == "enum":
        name = str(avro["name"])
        symbols = ",\n".join(f'    "{symbol}"' for symbol in avro["symbols"])
        text = f'{name} = Literal[\n{symbols},\n]\n"""{avro["doc"]}"""\n'
        if enums.setdefault(name, text) != text:
            raise ValueError(f"two schemas define the enumeration {name} differently")
        return name
    return LOGICAL[avro["logicalType"]]


def main() -> None:
    """Write the file, or with --check exit with status 1 if it is out of date."""
    if "--check" in sys.argv:
        if TARGET.read_text("utf-8") != render():
            sys.exit(f"{TARGET.name} is out of date: run python -m bus.standard.generate")
        return
    TARGET.write_text(render(), "utf-8")


if __name__ == "__main__":
    main()
