"""What the shards of `bus vendors run` say to each other, in the topic `PREFIX.vendors.shards-N`.

Partition 0 has the words of the common shard, partition k those of shard k. The words of one shard
keep their order.

A shard of students does not send the records that students share. It asks the common shard for them
(`Asked`), and tells it who enters and leaves (`Disclosed`), because only the common shard writes
the record of disclosures. Then it waits until the common shard has done this (`Seen`). Only then it
sends its own records. So a vendor receives a class before the first enrollment in it, and the
record of disclosures names a student before the vendor receives the student.

The topics of an agreement are written whole in rounds, which the common shard leads:

    common shard:       stop             write                        whole
    shards of students:      stopped           (writing)        whole

A shard says that it has stopped after its last message under the earlier edition. When all shards
have stopped, the common shard notes where the vendor's partitions end. Everything after these ends
is written in this round. When all shards have written everything, the common shard deletes what is
before the ends.

A key is a JSON list: what the word is, and what it is about. The topic is compacted, so a word is
kept until the same shard says something else about the same thing, for at most 30 days.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

DISCLOSED_STUDENTS = 1_000
"""The largest number of students in one word."""


class RoundStage(StrEnum):
    """How far a round is.

    STOP:    all shards must stop to write under the earlier edition.
    STOPPED: a shard has done so.
    WRITE:   all shards may write.
    WHOLE:   a shard has written everything; from the common shard: old records are deleted, too.
    LOST:    a shard has lost its file, so a new round must begin.
    """

    STOP = "stop"
    STOPPED = "stopped"
    WRITE = "write"
    WHOLE = "whole"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Round:
    """How far a shard is with the topics of an agreement.

    agreement: the agreement's name.
    edition:   the `Applied.edition` that is written.
    number:    the number of the round; it grows.
    stage:     how far it is.
    above:     the organizations above the selected schools; only from the common shard.
    """

    agreement: str
    edition: str
    number: int
    stage: RoundStage
    above: tuple[str, ...] = ()

    def is_before(self, other: Round) -> bool:
        """Return whether this is an earlier word of the common shard than another one."""
        stages = list(RoundStage)
        mine, theirs = (stages.index(one.stage) for one in (self, other))
        return (self.number, mine) < (other.number, theirs)


@dataclass(frozen=True, slots=True)
class Seen:
    """The common shard has done what a shard asked for.

    shard: the shard's number.
    next:  the offset in the shard's partition before which it has done everything.
    """

    shard: int
    next: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A shard's records refer, or do not refer any more, to a record that students share.

    agreement, round: the agreement and the number of its round.
    kind, id: the record.
    student:  the student that refers to it, if the record names its students (a guardian); else "".
    needed:   whether something refers to it.
    """

    agreement: str
    round: int
    kind: str
    id: str
    student: str
    needed: bool


@dataclass(frozen=True, slots=True)
class Disclosed:
    """Students of a shard enter or have left an agreement.

    agreement, round: the agreement and the number of its round.
    at:      when, with a time zone.
    number:  makes the word's key unique among those of the same time.
    """

    agreement: str
    round: int
    students: tuple[str, ...]
    at: datetime
    entered: bool
    number: int = 0


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A record about a student is not active any more in a shard.

    The SIS may have given it to a student of another shard. Both shards send the record under the
    same key. If both messages come into one partition, the active state must be the last one. So
    the common shard repeats this word, and the shard that has the record sends it again.
    """

    kind: str
    id: str


@dataclass(frozen=True, slots=True)
class ShardFile:
    """Which file a shard of students works with, since its last start.

    When it is another file than before, the shard has moved to another machine or has lost its
    file. It then does not know all that the vendors have.

    id: the file's id.
    """

    id: str


Word = Round | Seen | Asked | Disclosed | GivenUp | ShardFile


def encoded(word: Word) -> tuple[bytes, bytes]:
    """Return the key and the value of a word."""
    key: list[str | int]
    value: object
    match word:
        case Round():
            key = ["round", word.agreement]
            value = [word.edition, word.number, word.stage.value, list(word.above)]
        case Seen():
            key, value = ["seen", word.shard], word.next
        case Asked():
            key = ["asked", word.agreement, word.round, word.kind, word.id, word.student]
            value = word.needed
        case Disclosed():
            moment = word.at.isoformat()
            what = "entered" if word.entered else "left"
            key = [what, word.agreement, word.round, moment, word.number]
            value = list(word.students)
        case GivenUp():
            key, value = ["given up", word.kind, word.id], True
        case ShardFile():
            key, value = ["file"], word.id
    return _text(key), _text(value)


def _text(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def decoded(key: bytes | None, value: bytes | None) -> Word | None:
    """Return a word from its key and value; None if it is not one of this version's."""
    try:
        what, *about = json.loads(key or b"")
        said: Any = json.loads(value) if value is not None else None
        match what:
            case "round":
                edition, number, stage, above = said
                return Round(about[0], edition, number, RoundStage(stage), tuple(above))
            case "seen":
                return Seen(about[0], said)
            case "asked":
                agreement, round_, kind, id_, student = about
                return Asked(agreement, round_, kind, id_, student, said is True)
            case "entered" | "left":
                agreement, round_, moment, number = about
                entered = what == "entered"
                at = datetime.fromisoformat(moment)
                return Disclosed(agreement, round_, tuple(said), at, entered, number)
            case "given up":
                kind, id_ = about
                return GivenUp(kind, id_)
            case "file":
                return ShardFile(str(said))
    except (ValueError, TypeError, IndexError):
        return None
    return None


def disclosed(
    agreement: str, round_: int, students: Sequence[str], at: datetime, *, entered: bool
) -> Iterable[Disclosed]:
    """Yield the words about students who enter or have left, some in each."""
    for first in range(0, len(students), DISCLOSED_STUDENTS):
        some = tuple(students[first : first + DISCLOSED_STUDENTS])
        yield Disclosed(agreement, round_, some, at, entered, first)
