"""Checks everything that a vendor can read.

`History` is the district as its topics have it, with all states between two marks. `WatchedVendor`
computes from the agreement and the district alone which canaries the vendor's topics may hold. These
are the canaries of records that the vendor could see at some moment since its topics were written
whole, in the fields of today's agreement. It uses `tests/vendor_checker.py`. Of the code under test,
it uses only the compiled fields.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import combinations
from typing import Any, NamedTuple

from confluent_kafka import Message

from bus.delivery import Position
from bus.kafka import topics
from bus.kafka.cloudevents import headers_of
from bus.kafka.reader import Reader
from bus.registry.codec import Decoder
from bus.registry.subjects import schema_lookup
from bus.settings import Settings
from bus.standard.kinds import KINDS, Record
from bus.vendors.agreement import Agreement, Identifiers
from bus.vendors.scope import compile_scope
from bus.vendors.vendor_topics import possible_topics
from tests.faults.canaries import Canary, Key, found_in
from tests.integration.test_vendors import expected
from tests.vendor_checker import District

FAILED = "could not read: {}"
OPT_OUT = "optOut"
HEADERS = {"ce_specversion", "ce_id", "ce_type", "ce_source", "ce_scope", "ce_time", "content-type"}
SHORT = 8
"""Texts shorter than this, such as grades, may be equal at two vendors."""
SYMBOLS = {
    symbol
    for about in KINDS.values()
    for one in about.schema["fields"]
    for type_ in (one["type"] if isinstance(one["type"], list) else [one["type"]])
    if isinstance(type_, dict)
    for symbol in type_.get("symbols", ())
}


# ---- the district ------------------------------------------------------------------------------


class Window(District):
    """The district between two marks, with every state that a record had.

    The projection may have seen any mixture of these states. So the vendor may have received a
    record if one mixture allows it. An opt-out counts only if it was active all the time.
    """

    def __init__(self, start: Mapping[Key, Record], changes: Sequence[Change]) -> None:
        super().__init__()
        self.versions: dict[Key, list[Record]] = {key: [one] for key, one in start.items()}
        changed = set()
        for key, record in changes:
            changed.add(key)
            if record is not None:
                self.versions.setdefault(key, []).append(record)
        self.records = {key: _merged(states) for key, states in self.versions.items()}
        self._of: dict[str, list[Record]] = defaultdict(list)
        for key, states in self.versions.items():
            if key[0] != OPT_OUT or key not in changed:
                self._of[key[0]] += states

    def of(self, kind: str) -> list[Record]:
        """Return all states of the records of a kind."""
        return self._of[kind]


def _merged(states: Sequence[Record]) -> Record:
    """Return the last state, with the members of lists of all states."""
    found = dict(states[-1])
    for name, value in found.items():
        if isinstance(value, list):
            found[name] = list(dict.fromkeys(one for state in states for one in state[name]))
    return found


Change = tuple[Key, Record | None]


class History:
    """The district's topics, read again and again from where the last reading ended."""

    def __init__(self, settings: Settings) -> None:
        self.state = District()
        self._start: dict[Key, Record] = {}
        self._changes: list[Change] = []
        self._settings = settings
        self._places: dict[Position, int] = {}
        lookup = schema_lookup(settings)
        self._decoders = {kind: Decoder(kind, lookup) for kind in KINDS}

    def window(self, *, mark: bool = True) -> Window:
        """Read what is new; return all states since the last mark.

        mark: whether the next window begins here.
        """
        kinds = {topics.topic(self._settings, kind): kind for kind in KINDS}
        with Reader(self._settings, FAILED) as reader:
            places = reader.places(kinds)
            start = {place: self._places.get(place, 0) for place in places}
            for batch in reader.batches(start):
                for message in batch:
                    self._take(kinds[message.topic() or ""], message)
            self._places |= reader.reached
        found = Window(self._start, self._changes)
        if mark:
            self._start, self._changes = dict(self.state.records), []
        return found

    def _take(self, kind: str, message: Message) -> None:
        key, value = (kind, (message.key() or b"").decode()), message.value()
        record = self._decoders[kind].decode(value) if value is not None else None
        self._changes.append((key, record))
        if record is None:
            self.state.records.pop(key, None)
        else:
            self.state.records[key] = record


# ---- a vendor ----------------------------------------------------------------------------------


class Received(NamedTuple):
    """A message in a vendor's topic.

    data: its key, its value and its headers, as bytes.
    """

    kind: str
    partition: int
    key: str
    record: Record | None
    event: str
    data: bytes
    headers: frozenset[str]
    at: int


def reach(settings: Settings, name: str) -> list[Received]:
    """Return all messages that a vendor can read, in order, those of aborted transactions too."""
    lookup = schema_lookup(settings)
    kinds = {topic: topic.rpartition(".")[2] for topic in possible_topics(settings, name)}
    decoders = {kind: Decoder(kind, lookup, as_written=True) for kind in kinds.values()}
    found = []
    with Reader(settings, FAILED, {"isolation.level": "read_uncommitted"}) as reader:
        marks = reader.marks(reader.places(kinds))
        for batch in reader.batches({place: low for place, (low, _) in marks.items()}):
            for message in batch:
                kind = kinds[message.topic() or ""]
                key, value = message.key() or b"", message.value()
                headers = list(headers_of(message))
                texts = [b"%s=%s" % (one.encode(), text or b"") for one, text in headers]
                found.append(
                    Received(
                        kind,
                        message.partition() or 0,
                        key.decode(),
                        decoders[kind].decode(value) if value is not None else None,
                        (dict(headers)["ce_id"] or b"").decode(),
                        b"\n".join([key, value or b"", *texts]),
                        frozenset(one for one, _ in headers),
                        message.timestamp()[1],
                    )
                )
    return found


@dataclass(slots=True)
class WatchedVendor:
    """A vendor: its agreement, and the canaries that its topics may hold.

    checked: the agreement at the last check. If it was another one, the topics are written whole.
    held:    whether the guard held students back since then.
    revoked: whether it may receive nothing more.
    earlier: the agreements that were replaced since the last check.
    known:   real ids that earlier agreements shared. A deletion may still name them.
    """

    name: str
    deal: Agreement
    checked: Agreement | None = None
    held: bool = False
    revoked: bool = False
    allowed: set[str] = field(default_factory=set)
    received: list[Received] = field(default_factory=list)
    earlier: list[Agreement] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    _visible: set[Key] = field(default_factory=set)

    @property
    def real(self) -> bool:
        """Whether it receives real ids."""
        return self.deal.identifiers is Identifiers.REAL

    def replace(self, deal: Agreement) -> None:
        """Change the agreement."""
        self.earlier.append(self.deal)
        self.deal = deal

    def allow(self, window: Window, day: date) -> None:
        """Add what the vendor may have received in this window."""
        if self.revoked:
            return
        if self.deal != self.checked:
            self.known |= self.allowed
            self.allowed = set()
        for deal in self.earlier:
            if deal.identifiers is Identifiers.REAL:
                self.known |= {id_ for _, id_ in window.visible(deal, day)}
        self.earlier = []
        visible = window.visible(self.deal, day)
        scope = compile_scope(self.deal)
        for key in visible | (self._visible if self.held else set()):
            if key[0] not in scope.kinds:
                continue
            about = scope.kinds[key[0]]
            if self.real:
                self.allowed.add(key[1])
            for name in about.fields:
                if name not in about.references and name != "sourcedId":
                    for record in window.versions.get(key, ()):
                        self.allowed |= found_in(str(record[name]).encode())
        self._visible, self.checked, self.held = visible, self.deal, False

    def no_canary_is_outside(
        self, canaries: Mapping[str, Canary], never: Collection[str] = ()
    ) -> int:
        """Check every byte of the topics; return how many messages there are.

        never: canaries that no vendor may have, whatever its agreement says.
        """
        scope = compile_scope(self.deal)
        for one in self.received:
            assert one.headers <= HEADERS, f"{self.name}: {one.headers}"
            assert one.at % 1000 == 0, f"{self.name}: an exact time"
            found = found_in(one.data)
            may = self.allowed if one.record is not None else self.allowed | self.known
            outside = [canaries[text] for text in found if text not in may]
            assert not outside, f"{self.name}, {one.kind}: outside of its scope: {outside[0]}"
            assert found.isdisjoint(never), f"{self.name}: sent after an opt-out had been published"
            moved = [
                canaries[text]
                for text in found
                if canaries[text].field != "sourcedId" and canaries[text].kind != one.kind
            ]
            assert not moved, f"{self.name}, {one.kind}: of another kind: {moved[0]}"
            if one.record is not None and not self.revoked:
                assert one.kind in scope.kinds, f"{self.name}: {one.kind} is not shared"
                assert set(one.record) == set(scope.kinds[one.kind].fields)
        return len(self.received)

    def is_in_order(self, canaries: Mapping[str, Canary]) -> None:
        """Check that no older state of a record follows a newer one."""
        last: dict[tuple[str, int, str], int] = {}
        for one in self.received:
            if one.record is None or (version := _version(one, canaries)) is None:
                continue
            place = one.kind, one.partition, one.key
            assert version >= last.get(place, 0), f"{self.name}, {one.kind}: older after newer"
            last[place] = version

    def is_equal(self, settings: Settings, present: District) -> None:
        """Check that the last states are those that agreement and district give, and no others."""
        has: dict[Key, Record] = {}
        for one in self.received:
            if one.record is None:
                has.pop((one.kind, one.key), None)
            else:
                has[one.kind, one.key] = one.record
        wanted = expected(settings, self.name, present)
        kinds = {key[0] for key in has.keys() | wanted.keys()}
        for kind in kinds:  # the message of a failure must not print the whole district
            mine = {key: one for key, one in has.items() if key[0] == kind}
            theirs = {key: one for key, one in wanted.items() if key[0] == kind}
            extra, missing = mine.keys() - theirs.keys(), theirs.keys() - mine.keys()
            other = [key for key in mine.keys() & theirs.keys() if mine[key] != theirs[key]]
            assert not (extra or missing or other), (
                f"{self.name}, {kind}: {len(extra)} too many, {len(missing)} missing, "
                f"{len(other)} different"
            )


def _version(one: Received, canaries: Mapping[str, Canary]) -> int | None:
    """Return the version of the record in a message; None if no shared field shows it."""
    assert one.record is not None
    if one.kind == "enrollment":
        day: date = one.record["beginDate"]
        return day.toordinal()
    found = [canaries[text] for text in found_in(one.data) if canaries[text].field != "sourcedId"]
    return found[0].version if found else None


def share_no_value(vendors: Iterable[WatchedVendor]) -> None:
    """Check that no two vendors have a value in common, unless both agreements include it."""
    for one, other in combinations(vendors, 2):
        names = f"{one.name} and {other.name}"
        assert {m.event for m in one.received}.isdisjoint(m.event for m in other.received), names
        if not (one.real and other.real):
            keys = {m.key for m in one.received} & {m.key for m in other.received}
            assert not keys, f"{names}: the same id"
        common = _texts(one.received) & _texts(other.received)
        common -= one.allowed & other.allowed
        assert not common - SYMBOLS, f"{names}: {len(common)} values in common"


def _texts(received: Iterable[Received]) -> set[str]:
    """Return all texts of records. For a text that contains canaries, return only the canaries."""
    found: set[str] = set()
    for one in received:
        for value in (one.record or {}).values():
            members: list[Any] = value if isinstance(value, list) else [value]
            for text in members:
                if isinstance(text, str) and len(text) >= SHORT:
                    found |= found_in(text.encode()) or {text}
    return found
