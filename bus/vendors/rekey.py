"""Gives a vendor new ids, and the crosswalk from the old ones.

Each step recognizes what an interrupted run has done. The steps are:

1. Store a new key beside the present one in `PREFIX.vendors`. It is not in use yet.
2. Write the crosswalk for every record that the vendor's topics have.
3. Record in the record of disclosures that the ids change.
4. Make the new key the present one, and keep the one before as the earlier key. From then on `bus
   vendors run` writes the vendor's topics whole, as after a change of the agreement. It writes the
   records with new ids, then a deletion of each old id, and then deletes the old records from
   Kafka.
5. Add to the crosswalk the records that the vendor has received since step 2.

The key of step 1 is in Kafka before the first id is in the crosswalk. So after a kill, the same
command continues with the same ids. After step 4, the crosswalk itself shows that the command is
complete, because its ids are those of the earlier and of the present key.

A chain of renewals has one key, so the ids of all agreements of the chain change together. After
step 4, `Pseudonyms.real_record` refuses records with old ids. (No command takes records from
vendors yet.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from bus.delivery import Position
from bus.errors import Stop
from bus.kafka.reader import passages, position
from bus.local import private_file
from bus.settings import Settings
from bus.vendors import applied as store
from bus.vendors import (
    crosswalk,
    key_rotation,
    master_key,
    narrowing,
    old_records,
    revocation,
    vendor_topics,
    written_editions,
)
from bus.vendors.applied import Applied
from bus.vendors.crosswalk import Row
from bus.vendors.disclosures import DisclosureWriter
from bus.vendors.pseudonyms import Pseudonyms, new_key, unwrapped, wrapped
from bus.vendors.scope import compile_scope

OVERTAKEN = (
    "another command changes the keys of {} at the same time; run the same command again when it "
    "has ended"
)


@dataclass(frozen=True, slots=True)
class Rekey:
    """What a rekey did.

    agreements: the agreements with new ids: all agreements of the chain of renewals.
    rows:       the number of rows in the crosswalk.
    times:      how many times the ids have been changed, this change included.
    """

    agreements: tuple[str, ...]
    rows: int
    times: int


def rekey(
    settings: Settings, name: str, file: Path, now: datetime, disclosures: DisclosureWriter
) -> Rekey:
    """Give a vendor new ids, or continue a rekey that was interrupted.

    If the file already has the crosswalk of the last rekey, the ids stay as they are.

    name: an agreement.
    file: the crosswalk to write, in a folder that only its owner can read.
    now:  the time, UTC.

    Raises `Stop` if the agreement has no pseudonyms or is over, if the file has other content, or
    if no master key opens a key. Raises `RetryLater` if Kafka does not answer.
    """
    private_file.check_folder(file.absolute().parent)
    one, masters = _wanted(settings, name), master_key.read(settings)
    written = crosswalk.read(file)
    if one.next_key:
        if written is not None:
            _require(written, file, *_pair(one.wrapped_key, one.next_key, masters))
    elif written is not None:
        if not one.earlier_key:
            raise Stop(f"{file} exists; name a file that does not exist yet")
        _require(written, file, *_pair(one.earlier_key, one.wrapped_key, masters))
        return _complete(settings, one, file, written)
    else:
        one = _begin(settings, one, masters)
        masters = master_key.read(settings)
    pair = _pair(one.wrapped_key, one.next_key, masters)
    written = crosswalk.rows(_present(settings, one), *pair) | (written or set())
    crosswalk.write(file, written)
    return _complete(settings, _activate(settings, one, now, disclosures), file, written)


def repeat(settings: Settings, name: str, file: Path) -> Rekey:
    """Write the crosswalk of the last rekey once more; no id changes.

    Raises `Stop` if the ids were never changed, and the errors of `rekey`.
    """
    private_file.check_folder(file.absolute().parent)
    one = _wanted(settings, name)
    if one.next_key:
        raise Stop(f"a rekey of {name} was interrupted: complete it first, without --again")
    if not one.earlier_key:
        raise Stop(f"the ids of {name} were never changed, so there is no crosswalk")
    written = crosswalk.read(file) or set()
    pair = _pair(one.earlier_key, one.wrapped_key, master_key.read(settings))
    _require(written, file, *pair)
    return _complete(settings, one, file, written)


def _wanted(settings: Settings, name: str) -> Applied:
    """Return the agreement. Raises `Stop` if it has real ids or is over."""
    one = revocation.find(store.read(settings), name)
    if not compile_scope(one.agreement).pseudonymous:
        raise Stop(f'{name} has the ids of the SIS (`identifiers = "real"`), which stay')
    if one.over(store.today()):
        raise Stop(f"{name} has ended, so its vendor receives no ids any more")
    return one


def _pair(old: bytes, new: bytes, masters: tuple[bytes, ...]) -> tuple[Pseudonyms, Pseudonyms]:
    return Pseudonyms(unwrapped(old, masters)), Pseudonyms(unwrapped(new, masters))


def _require(written: set[Row], file: Path, old: Pseudonyms, new: Pseudonyms) -> None:
    if not crosswalk.belongs(written, old, new):
        raise Stop(
            f"{file} has the crosswalk of another rekey; name a file that does not exist yet"
        )


def _begin(settings: Settings, one: Applied, masters: tuple[bytes, ...]) -> Applied:
    """Store a new key beside the present one, for the whole chain."""
    if one.earlier_key:
        earlier = Pseudonyms(unwrapped(one.earlier_key, masters))
        if any(earlier.real(id_) is not None for _, id_ in _present(settings, one)):
            raise Stop(
                f"the topics of {one.name} still have ids from before the last rekey: first let "
                "`bus vendors run` write them whole. --again writes the last crosswalk again"
            )
    coming = wrapped(new_key(), masters[0])
    _store(settings, _chain(settings, one), lambda other: replace(other, next_key=coming))
    key_rotation.keep_up(settings, masters)
    return _with_next(settings, one.name)


def _activate(
    settings: Settings, one: Applied, now: datetime, disclosures: DisclosureWriter
) -> Applied:
    """Make the new key the present one, for the whole chain."""
    stored = _with_next(settings, one.name)
    # The master key may have been rotated since, so the unwrapped keys are compared.
    masters = master_key.read(settings)
    if unwrapped(stored.next_key, masters) != unwrapped(one.next_key, masters):
        raise Stop(OVERTAKEN.format(one.name))
    for other in _chain(settings, one):
        if not other.over(store.today()):
            disclosures.rekeyed(other.name, now, one.rekeyed + 1)
    chain = _chain(settings, one)
    if not all(other.next_key for other in chain if other.wrapped_key):
        raise Stop(OVERTAKEN.format(one.name))  # another run has activated the new key meanwhile
    # Other ids show no more than the agreement says, so they alone close no access.
    written = written_editions.read_all(settings)
    _store(
        settings,
        chain,
        lambda other: replace(
            other,
            wrapped_key=other.next_key,
            earlier_key=other.wrapped_key,
            next_key=b"",
            rekeyed=other.rekeyed + 1,
            narrowed=narrowing.unwritten(other, written),
        ),
    )
    return store.read(settings)[one.name]


def _with_next(settings: Settings, name: str) -> Applied:
    """Return the stored agreement, which must have the key of the rekey that has begun."""
    stored = store.read(settings)[name]
    if not stored.next_key:
        raise Stop(OVERTAKEN.format(name))
    return stored


def _store(
    settings: Settings, chain: Iterable[Applied], change: Callable[[Applied], Applied]
) -> None:
    """Store a whole chain with other keys. An agreement whose key was deleted gets none."""
    store.write(
        settings,
        *(
            replace(change(other), key_version=other.key_version + 1)
            for other in chain
            if other.wrapped_key
        ),
    )


def _complete(settings: Settings, one: Applied, file: Path, written: set[Row]) -> Rekey:
    """Add to the crosswalk the records that the vendor has received since it was written."""
    pair = _pair(one.earlier_key, one.wrapped_key, master_key.read(settings))
    rows = crosswalk.rows(_present(settings, one), *pair) | written
    if rows != written or not file.exists():
        crosswalk.write(file, rows)
    names = tuple(other.name for other in _chain(settings, one))
    return Rekey(names, len(rows), one.rekeyed)


def _chain(settings: Settings, one: Applied) -> list[Applied]:
    """Return this agreement and all that share its ids."""
    return [other for other in store.read(settings).values() if other.ids_name == one.ids_name]


def _present(settings: Settings, one: Applied) -> Iterator[tuple[str, str]]:
    """Yield the kind and the id of each record that the vendor's topics have now."""
    kinds = {
        topic: kind
        for other in _chain(settings, one)
        for kind, topic in vendor_topics.topics_by_kind(
            settings, compile_scope(other.agreement), one.ids_name
        ).items()
    }
    live: dict[tuple[Position, bytes], bool] = {}
    for message in passages(settings, {}, old_records.ends(settings, kinds)):
        live[position(message), message.key() or b""] = message.value() is not None
    for (place, key), is_there in live.items():
        if is_there:
            yield kinds[place.topic], key.decode("utf-8", "replace")
