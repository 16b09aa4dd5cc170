"""Generate DuckDB SQL that converts text to the standard's types.

The SQL is generated from the Avro types. The OneRoster 1.2 CSV Binding defines the formats: dates
are ISO 8601 `YYYY-MM-DD`, timestamps are ISO 8601 in UTC, and enumerations and booleans are
spelled as listed. Vendors write other formats too. This module also accepts a format that can have
only one meaning. It does not guess the meaning of text that can have two.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from bus.ingest import grades
from bus.ingest.columns import column_type, quoted
from bus.standard import KINDS
from bus.standard.fault_codes import FaultCode
from bus.standard.json import ID_LENGTH

CONTROL = r"[\x00-\x1f\x7f-\x{9f}\x{2028}\x{2029}]"
"""The characters that an id must not contain (RE2). `bus.standard.json` has the same for JSON."""

UNPRINTED = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x{9f}]"
"""The characters that other text must not contain: control characters except tabs and line ends."""

LONGEST = 32_768
"""The maximum length of a text or a list, in characters.

Longer text has a quote that was not closed, or would not fit in a message.
"""

BLANK = r"\t-\r\p{Z}\x{85}"
"""The white space characters (Unicode, "White_Space"), for an RE2 character class."""

INVISIBLE = (
    r"\x{ad}\x{61c}\x{200b}\x{200e}\x{200f}\x{202a}-\x{202e}\x{2060}-\x{2064}"
    r"\x{2066}-\x{206f}\x{feff}\x{fff9}-\x{fffb}\x{e0001}"
)
"""Characters that have no meaning and cannot be seen, for an RE2 character class.

These are the characters of Unicode's general category Cf, except `MEANINGFUL`. They get into text
by copy and paste. People who search for a name do not type them.
"""

MEANINGFUL = (
    r"\x{200c}\x{200d}\x{180e}"  # joiners: Persian, Indic scripts, Mongolian
    r"\x{600}-\x{605}\x{6dd}\x{70f}\x{890}\x{891}\x{8e2}\x{110bd}\x{110cd}"  # visible signs
    r"\x{13430}-\x{1343f}\x{1bca0}-\x{1bca3}\x{1d173}-\x{1d17a}"  # hieroglyphs, shorthand, music
    r"\x{e0020}-\x{e007f}"  # letters of flag emoji
)
"""The characters of category Cf that are kept, for an RE2 character class."""

DIRT = rf"\A[{BLANK}{INVISIBLE}]+|[{BLANK}{INVISIBLE}]+\z|[{INVISIBLE}]+"
"""What `cleaned` removes from a text (RE2)."""

YES = ("true", "t", "yes", "y", "1")
NO = ("false", "f", "no", "n", "0")

INTEGER = r"[+-]?[0-9]+(\.0*)?"
NUMBER = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
YEAR = "(19[0-9]{2}|2[01][0-9]{2}|2200)"
"""A plausible year. Any other year is a typing error or a placeholder."""

DAY = YEAR + "-[0-9]{2}-[0-9]{2}"
TIME = r"[Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?"
OFFSET = r" ?([Zz]|[+-](0[0-9]|1[0-4])(:?[0-5][0-9])?)"
COMPACT = YEAR + "[0-9]{4}"
AMERICAN = "[0-9]{1,2}/[0-9]{1,2}/" + YEAR

WITHDRAWN = "inactive"
"""A status of OneRoster 1.0 that means withdrawn. OneRoster 1.1 removed it (StatusType)."""

LEFT_OUT = "the row was left out; correct it in the SIS and send the extract again"


class FaultType(NamedTuple):
    """A type of fault.

    column: the field that has the fault.
    reason: the text for a person. `{kept}` in it is replaced by the row that was kept instead.
    fatal:  whether the row is left out.
    code:   the fault code.
    once:   whether the fault is reported once for each distinct text that has it, with a count.
    """

    column: str
    reason: str
    fatal: bool
    code: str = FaultCode.OTHER
    once: bool = False


class Flaw(NamedTuple):
    """A possible fault of a field.

    when:   the SQL condition. In it, the field's name is the column with the field's text, and
            `made_of` names the converted value.
    reason: the text for a person.
    fatal:  whether the row is left out.
    code:   the fault code.
    once:   whether the fault is reported once for each distinct text that has it, with a count.
    empty:  whether the condition can hold when the field has no text.
    """

    when: str
    reason: str
    fatal: bool
    code: str = FaultCode.OTHER
    once: bool = False
    empty: bool = False


class Conversion(NamedTuple):
    """How a field is converted from text.

    value:   SQL that makes the value from the field's text. It is NULL if there is no value.
    instead: SQL for the value to use if there is none: the Avro default.
    flaws:   the possible faults. The first one that holds counts.
    result:  SQL for the field of the record, if it is not simply `value`, else `instead`.
    """

    value: str
    instead: str
    flaws: tuple[Flaw, ...]
    result: str = ""


def reading(
    kind: str, raw: str, there: Collection[str], *, faults: bool = False
) -> tuple[str, list[FaultType]]:
    """Return a SELECT that turns a table of text into records, and the types of fault it may find.

    raw:    the table of text.
    there:  the columns of `raw`. A field that is not among them is empty, and so is `_raw` (see
            `bus.ingest.row_hashes`).
    faults: whether the SELECT includes `_faults`, which takes DuckDB a long time to plan.

    The SELECT gives the fields, `_line`, `_file`, `_raw` and

    _faults: NULL if there is no fault. Otherwise a list with an item for each field: NULL, or the
             fault's `code` (1 for the first type of fault), the `class` of the value (see
             `value_class`) and, if the fault is reported once for each distinct text, the `text`;
    _worst:  the code of a fatal fault, negative, if there is one. Otherwise the code of any fault,
             or NULL.
    """
    columns_there = {column.lower() for column in there}
    texts, made, codes, wrong, values = [], [], [], [], []
    types: list[FaultType] = []
    for field in KINDS[kind].schema["fields"]:
        name, how = field["name"], conversion(field)
        if (when := KINDS[kind].when.get(name)) is not None:
            how = _conditional(kind, name, how, when)
        value = how.result or f"coalesce({made_of(name)}, {how.instead})"
        # Keep the SQL of a missing column short: DuckDB plans it as slowly as that of any column.
        is_there = name.lower() in columns_there
        text = f"CAST(r.{quoted(name)} AS VARCHAR)"
        text = f"nullif({_trimmed(field, text)}, '')" if is_there else "NULL::VARCHAR"
        texts.append(f"{text} AS {quoted(name)}")
        nothing = f"CAST(NULL AS {column_type(field['type'])})"
        made.append(f"{how.value if is_there else nothing} AS {made_of(name)}")
        values.append(f"CAST({value} AS {column_type(field['type'])}) AS {quoted(name)}")
        cases = []
        for flaw in how.flaws:
            types.append(FaultType(name, flaw.reason, flaw.fatal, flaw.code, flaw.once))
            if not (is_there or flaw.empty):
                continue
            cases.append(f"WHEN {flaw.when} THEN {-len(types) if flaw.fatal else len(types)}")
        code = quoted(f"{name}?")
        codes.append(f"CASE {' '.join([*cases, 'WHEN false THEN 0'])} END AS {code}")
        reported_text = quoted(name) if any(flaw.once for flaw in how.flaws) else "NULL::VARCHAR"
        class_ = value_class(quoted(name)) if is_there else "'empty'"
        fault = f"{{'code': abs({code}), 'class': {class_}, 'text': {reported_text}}}"
        wrong.append(f"CASE WHEN {code} IS NOT NULL THEN {fault} END")
    worst = ", ".join(quoted(f"{name}?") for name in KINDS[kind].fields)
    hashed = "r._raw" if "_raw" in there else "NULL::UBIGINT"
    listed = f", CASE WHEN _worst IS NOT NULL THEN [{', '.join(wrong)}] END AS _faults"
    return (
        f"""
        SELECT {", ".join(values)}, _line, _file, _raw, _worst{listed if faults else ""}
        FROM (SELECT *, least({worst}) AS _worst
        FROM (SELECT *, {", ".join(codes)}
        FROM (SELECT *, {", ".join(made)}
        FROM (SELECT {", ".join(texts)}, r._line, r._file, {hashed} AS _raw FROM {raw} r))))
        """,
        types,
    )


def text_literal(text: str) -> str:
    """Return a text as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def made_of(field: str) -> str:
    """Return the name of the column that holds the value converted from a field's text."""
    return quoted(f"{field}!")


def is_id(field: Mapping[str, Any]) -> bool:
    """Return whether a field holds an id, or a list of ids, rather than text for people."""
    return "references" in field or field["name"].endswith(("ourcedId", "ourcedIds"))


def conversion(field: Mapping[str, Any]) -> Conversion:
    """Return how a field of a schema is converted from text.

    The text is trimmed, and NULL if it is empty.

    A field without an Avro default is required: if it has no value, the row is left out. An unknown
    enumeration value becomes the default of the enumeration itself, if it has one (Avro 1.12,
    "Enums"). So does an empty value, if the field has no default.
    """
    avro = _branch(field["type"])
    if isinstance(avro, dict) and avro["type"] == "enum":
        return _status(field, avro) if field["name"] == "status" else _enumeration(field, avro)
    if isinstance(avro, dict) and avro["type"] == "array":
        return _several(field, avro)
    if avro == "string" and not is_id(field):
        return _words(field)
    text = quoted(field["name"])
    if avro == "string":
        fits = f"CASE WHEN {_fits(text)} THEN {text} END"
        return _checked(field, fits, NO_ID, FaultCode.NOT_AN_ID)
    read, what, code = _READ[avro if isinstance(avro, str) else avro["logicalType"]]
    return _checked(field, read(text), what, code)


def _conditional(kind: str, name: str, how: Conversion, when: Mapping[str, str]) -> Conversion:
    """Return the conversion of a field that has a value only with certain values of other fields.

    A row without the required value is left out. A row with a value that it must not have is kept
    without it, because the other field says clearly what the row means.
    """
    by_name = {field["name"]: field for field in KINDS[kind].schema["fields"]}
    holds = " AND ".join(
        f"coalesce({made_of(other)}, {conversion(by_name[other]).instead}) = {text_literal(value)}"
        for other, value in when.items()
    )
    words = " and ".join(f"{other} is {value}" for other, value in when.items())
    absent = Flaw(
        f"{holds} AND {made_of(name)} IS NULL",
        f"the field is empty or has no valid value, although {words}; {LEFT_OUT}",
        True,
        FaultCode.WRONG_COMBINATION,
        empty=True,
    )
    unwanted = Flaw(
        f"NOT ({holds}) AND {quoted(name)} IS NOT NULL",
        f"the field has a value, although it must have one only if {words}; the row was kept "
        "without this value; correct it in the SIS",
        False,
        FaultCode.WRONG_COMBINATION,
    )
    result = f"CASE WHEN {holds} THEN {made_of(name)} END"
    return how._replace(flaws=(absent, unwanted, *how.flaws), result=result)


def value_class(text: str) -> str:
    """Return SQL for the class of a text, such as "a date" or "text of 12 characters"."""
    lower = f"lower(trim({text}))"
    words = ", ".join(text_literal(word) for word in (*YES, *NO) if len(word) > 1)
    return (
        f"CASE WHEN {text} IS NULL OR trim({text}) = '' THEN 'empty' "
        f"WHEN {_like(lower, NUMBER)} THEN 'a number' "
        f"WHEN {_like(lower, f'{DAY}({TIME}({OFFSET})?)?|{AMERICAN}')} THEN 'a date' "
        f"WHEN {lower} IN ({words}) THEN 'a boolean' "
        f"WHEN length({text}) = 1 THEN 'text of 1 character' "
        f"ELSE format('text of {{}} characters', length({text})) END"
    )


def cleaned(text: str) -> str:
    """Return SQL for a text without invisible characters, and without white space at its ends.

    Few texts have any. Looking for them takes a third of the time that a trim takes.
    """
    return f"CASE WHEN {_holds(text, DIRT)} THEN {_without(text, DIRT)} ELSE {text} END"


def is_blank(text: str) -> str:
    """Return SQL that is true if a text contains nothing but white space."""
    filled = f"coalesce({text}, '')"
    return f"NOT {_holds(filled, f'[^{BLANK}]')}"


def plain(text: str) -> str:
    """Return SQL for the form of a text by which an enumeration symbol is recognized.

    Case, white space, hyphens and underscores do not count.
    """
    return f"lower(translate({text}, ' _-\t\u00a0', ''))"


NO_ID = f"the id is not valid: it must have 1 to {ID_LENGTH} characters and no control characters"
TOO_LONG = f"the value is longer than {LONGEST:,} characters (is a quote not closed?)"
TAKEN_OUT = (
    "the value contains control characters; the row was kept without them; remove them in the SIS"
)


def _branch(avro: Any) -> Any:
    """Return the type of a value that is not null."""
    return next(part for part in avro if part != "null") if isinstance(avro, list) else avro


def _trimmed(field: Mapping[str, Any], text: str) -> str:
    """Return SQL for a field's text, trimmed.

    An id loses only the characters that `bus.ingest.row_hashes` also removes, so that both see the
    same id.
    """
    return f"trim({text})" if is_id(field) else cleaned(text)


def default(field: Mapping[str, Any]) -> str:
    """Return a field's Avro default as SQL, or NULL if it has none."""
    value = field.get("default")
    if isinstance(value, list):
        items = ", ".join(text_literal(item) for item in value)
        return f"CAST([{items}] AS {column_type(field['type'])})"
    if value is None:
        return "NULL"
    return text_literal(value) if isinstance(value, str) else str(value)


def _like(text: str, pattern: str) -> str:
    return f"regexp_full_match({text}, {text_literal(pattern)})"


def _holds(text: str, pattern: str) -> str:
    return f"regexp_matches({text}, {text_literal(pattern)})"


def _without(text: str, pattern: str) -> str:
    return f"regexp_replace({text}, {text_literal(pattern)}, '', 'g')"


def _fits(text: str) -> str:
    """Return SQL that is true if a text is a valid id."""
    return f"length({text}) <= {ID_LENGTH} AND NOT {_holds(text, CONTROL)}"


def _checked(field: Mapping[str, Any], value: str, what: str, code: FaultCode) -> Conversion:
    """Return the conversion of a field whose text either gives a value or is a fault.

    what: describes the fault. code: its code.
    """
    text, made = quoted(field["name"]), made_of(field["name"])
    unread = f"{text} IS NOT NULL AND {made} IS NULL"
    if "default" not in field:
        bad = Flaw(unread, f"{what}; {LEFT_OUT}", True, code)
        return Conversion(value, "NULL", (bad, _empty(made)))
    absent = field["default"]
    instead = (
        "the row was kept without this value; correct it in the SIS"
        if absent is None
        else f"the row was kept with the value {str(absent).lower()}; correct it in the SIS"
    )
    return Conversion(value, default(field), (Flaw(unread, f"{what}; {instead}", False, code),))


def _empty(made: str) -> Flaw:
    reason = f"the field is required but empty; {LEFT_OUT}"
    return Flaw(f"{made} IS NULL", reason, True, FaultCode.MISSING_VALUE, empty=True)


def _words(field: Mapping[str, Any]) -> Conversion:
    """Return the conversion of text for people. It removes characters that cannot be printed."""
    text, made = quoted(field["name"]), made_of(field["name"])
    required = "default" not in field
    consequence = (
        LEFT_OUT if required else "the row was kept without this value; correct it in the SIS"
    )
    reason = f"{TOO_LONG}; {consequence}"
    too_long = Flaw(f"length({text}) > {LONGEST}", reason, required, FaultCode.TOO_LONG)
    changed = f"{made} IS DISTINCT FROM {text} AND {_holds(text, UNPRINTED)}"
    taken_out = Flaw(changed, TAKEN_OUT, False, FaultCode.CONTROL_CHARACTERS)
    flaws = (too_long, _empty(made), taken_out) if required else (too_long, taken_out)
    value = f"CASE WHEN length({text}) <= {LONGEST} THEN {_printed(text)} END"
    return Conversion(value, default(field), flaws)


def _printed(text: str) -> str:
    # Few texts have such characters, so the time to remove them does not matter. The time to
    # plan the SQL does.
    stripped = _without(_without(text, UNPRINTED), DIRT)
    return f"CASE WHEN {_holds(text, CONTROL)} THEN nullif({stripped}, '') ELSE {text} END"


def _several(field: Mapping[str, Any], avro: Mapping[str, Any]) -> Conversion:
    """Return the conversion of a list.

    Its items are separated by commas (OneRoster 1.2 CSV Binding, "Lists").
    """
    if avro["items"] != "string":
        raise NotImplementedError(f"{field['name']}: only lists of text are supported")
    text, made = quoted(field["name"]), made_of(field["name"])
    split = f"string_split({text if is_id(field) else _printed(text)}, ',')"
    item = "trim(x)" if is_id(field) else cleaned("x")
    items = f"list_transform({split}, lambda x: {item})"
    if field["name"] == "grades":
        items = f"list_transform({items}, lambda x: {grades.code_of('x')})"
    wanted = f"x <> '' AND {_fits('x')}" if is_id(field) else "x <> ''"
    # list_distinct would lose the order. The outer list, which has one item, gives the inner list
    # a name. Without a name, the text would be split again for each item.
    distinct = f"list_filter(l, lambda x, i: {wanted} AND list_position(l, x) = i)"
    value = (
        f"CASE WHEN length({text}) <= {LONGEST} "
        f"THEN list_transform([{items}], lambda l: {distinct})[1] END"
    )
    reason = f"{TOO_LONG}; the row was kept without this list; correct it in the SIS"
    too_long = Flaw(f"length({text}) > {LONGEST}", reason, False, FaultCode.TOO_LONG)
    if is_id(field):
        bad = f"len(list_filter({items}, lambda x: NOT ({_fits('x')}))) > 0"
        reason = f"{NO_ID}; the row was kept without this id; correct it in the SIS"
        flaw = Flaw(f"{text} IS NOT NULL AND {bad}", reason, False, FaultCode.NOT_AN_ID)
    else:
        unprinted = _holds(text, UNPRINTED)
        flaw = Flaw(unprinted, TAKEN_OUT, False, FaultCode.CONTROL_CHARACTERS)
    if "default" in field:
        return Conversion(value, default(field), (too_long, flaw))
    return Conversion(f"nullif({value}, [])", "NULL", (_empty(made), flaw))


ABBREVIATED = {"Sex": {"m": "male", "f": "female"}}
"""Other texts that can only mean one symbol, for an enumeration of the schemas."""


def _symbols(avro: Mapping[str, Any]) -> dict[str, str]:
    plainly = {symbol.lower().replace("_", ""): symbol for symbol in avro["symbols"]}
    return plainly | ABBREVIATED.get(avro["name"], {})


def _symbol(text: str, symbols: Mapping[str, str]) -> str:
    """Return SQL for the symbol that a text means, compared as `plain` does."""
    exact = ", ".join(text_literal(symbol) for symbol in dict.fromkeys(symbols.values()))
    cases = " ".join(f"WHEN {text_literal(k)} THEN {text_literal(v)}" for k, v in symbols.items())
    return f"CASE WHEN {text} IN ({exact}) THEN {text} ELSE CASE {plain(text)} {cases} END END"


def _enumeration(field: Mapping[str, Any], avro: Mapping[str, Any]) -> Conversion:
    text, made = quoted(field["name"]), made_of(field["name"])
    value = _symbol(text, _symbols(avro))
    what = f"the value is not one of {', '.join(avro['symbols'])}"
    if (other := avro.get("default")) is None:
        return _checked(field, value, what, FaultCode.NOT_IN_LIST)
    unread = f"{text} IS NOT NULL AND {made} IS NULL"
    reason = f"{what}; the row was kept with the value {other}; correct it in the SIS"
    unknown = Flaw(unread, reason, False, FaultCode.NOT_IN_LIST, once=True)
    if "default" not in field:
        reason = (
            f"the field is empty; the row was kept with the value {other}; enter a value in the SIS"
        )
        empty = Flaw(
            f"{text} IS NULL", reason, False, FaultCode.MISSING_VALUE, once=True, empty=True
        )
        return Conversion(value, text_literal(other), (unknown, empty))
    instead = f"CASE WHEN {text} IS NULL THEN {default(field)} ELSE {text_literal(other)} END"
    return Conversion(value, instead, (unknown,))


def _status(field: Mapping[str, Any], avro: Mapping[str, Any]) -> Conversion:
    """Return the conversion of `status`.

    An unknown status is not guessed, because it may mean that the record is withdrawn.
    """
    text, made = quoted(field["name"]), made_of(field["name"])
    was = f"{plain(text)} = {text_literal(WITHDRAWN)}"
    unknown = f"the value is not one of {', '.join(avro['symbols'])}; {LEFT_OUT}"
    return Conversion(
        _symbol(text, {**_symbols(avro), WITHDRAWN: "tobedeleted"}),
        text_literal(avro["default"]),
        (
            Flaw(f"{text} IS NOT NULL AND {made} IS NULL", unknown, True, FaultCode.NOT_IN_LIST),
            Flaw(
                was,
                "the value is inactive, which OneRoster 1.1 removed; the row was kept with the "
                "value tobedeleted; send tobedeleted instead",
                False,
                FaultCode.OUTDATED_VALUE,
                once=True,
            ),
        ),
    )


def _moment(text: str) -> str:
    """Return SQL for an ISO 8601 timestamp, in whole milliseconds, as the topics hold it.

    A timestamp without an offset is in UTC.
    """
    # TIMESTAMPTZ reads a text without an offset as local time. TIMESTAMP ignores an offset.
    zoned = f"make_timestamp(epoch_us(try_cast(upper({text}) AS TIMESTAMPTZ)))"
    plain = f"try_cast(upper({text}) AS TIMESTAMP)"
    return (
        f"date_trunc('milliseconds', CASE WHEN {_like(text, DAY + TIME + OFFSET)} THEN {zoned} "
        f"WHEN {_like(text, f'{DAY}({TIME})?')} THEN {plain} END)"
    )


def _date(text: str) -> str:
    """Return SQL for a date. For a timestamp it is the date as written, whatever the offset."""
    return (
        f"CASE WHEN {_like(text, DAY)} THEN try_cast({text} AS DATE) "
        f"WHEN {_like(text, COMPACT)} THEN CAST(try_strptime({text}, '%Y%m%d') AS DATE) "
        f"WHEN {_like(text, AMERICAN)} THEN CAST(try_strptime({text}, '%m/%d/%Y') AS DATE) "
        f"WHEN {_moment(text)} IS NOT NULL THEN try_cast({text}[:10] AS DATE) END"
    )


def _boolean(text: str) -> str:
    yes, no = (", ".join(text_literal(word) for word in words) for words in (YES, NO))
    return (
        f"CASE WHEN lower({text}) IN ({yes}) THEN true WHEN lower({text}) IN ({no}) THEN false END"
    )


def _whole(text: str, type_: str) -> str:
    return f"CASE WHEN {_like(text, INTEGER)} THEN try_cast({text} AS {type_}) END"


def _number(text: str) -> str:
    number = f"try_cast({text} AS DOUBLE)"
    return f"CASE WHEN {_like(text, NUMBER)} AND isfinite({number}) THEN {number} END"


_READ: dict[str, tuple[Callable[[str], str], str, FaultCode]] = {
    "boolean": (_boolean, "the value is neither true nor false", FaultCode.NOT_A_BOOLEAN),
    "int": (
        lambda text: _whole(text, "INTEGER"),
        "the value is not a whole number of at most 32 bits",
        FaultCode.NOT_AN_INTEGER,
    ),
    "long": (
        lambda text: _whole(text, "BIGINT"),
        "the value is not a whole number of at most 64 bits",
        FaultCode.NOT_AN_INTEGER,
    ),
    "double": (_number, "the value is not a number", FaultCode.NOT_A_NUMBER),
    "date": (
        _date,
        "the value is not a date of the years 1900 to 2200 in the format YYYY-MM-DD",
        FaultCode.NOT_A_DATE,
    ),
    "timestamp-millis": (
        _moment,
        "the value is not a date and time of the years 1900 to 2200 in the format "
        "YYYY-MM-DDTHH:MM:SSZ",
        FaultCode.NOT_A_MOMENT,
    ),
}
