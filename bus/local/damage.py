"""Finds damaged files of a home before Kafka and the registry start.

Kafka and H2 always write these files whole, so damage comes from a disk, an interrupted copy or a
partial restore. On damaged files, Kafka ends with a stack trace that suggests no repair. The
registry silently starts an empty store. Formats: Apache Kafka 4.3, `LeaderEpochCheckpointFile`,
`OffsetCheckpointFile`, `FileQuorumStateStore`, `PartitionMetadataFile`, `BatchFileWriter`; H2,
"MVStore", "File Format".
"""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bus.errors import Stop
from bus.local import kafka_process
from bus.local.home import read_text
from bus.local.kafka_process import DATA, ID, META

KEPT = "kafka.properties"
"""A copy of `meta.properties` outside of Kafka's folder: without it all of Kafka's data is lost."""

H2 = "registry/registry.mv.db"
QUORUM = "__cluster_metadata-0"


@dataclass(frozen=True, slots=True)
class Damage:
    """Files that cannot be read.

    spare: files that the next start rebuilds or restores.
    lost:  files that only a backup can restore.
    """

    spare: tuple[Path, ...]
    lost: tuple[Path, ...]


def damage(home: Path) -> Damage:
    """Check the small files without which Kafka or the registry would not start."""
    found = list(_damaged(home))
    spare = tuple(path for path in found if _is_spare(home, path))
    return Damage(spare, tuple(path for path in found if path not in spare))


def check(home: Path) -> None:
    """Raise `Stop`, with the repair, if a file is damaged that no start can rebuild."""
    if not (lost := damage(home).lost):
        return
    names = ", ".join(str(path.relative_to(home)) for path in lost[:3])
    more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
    raise Stop(
        f"in {home} damaged or missing: {names}{more}. Run `bus down`, then restore {home} from a "
        "backup. Without a backup, move it away and run `bus up`, `bus schemas apply` and "
        "`bus produce`; the consumers then deliver everything again"
    )


def mend(home: Path, say: Callable[[str], None]) -> None:
    """Restore or delete damaged files that can be rebuilt; Kafka and the registry must not run.

    Raises `Stop`, as `check` does, and then changes nothing.
    """
    check(home)
    for path in damage(home).spare:
        if path.name == META:
            shutil.copyfile(home / KEPT, path)
            say(f"{path} was damaged and has been restored")
        else:
            path.unlink(missing_ok=True)
            say(f"{path} was damaged and will be rebuilt")


def back_up(home: Path) -> None:
    """Make a spare copy of `meta.properties`, which holds the id of Kafka's data.

    Call this after Kafka has started with it, so that a damaged file is never copied.
    """
    source, copy = home / DATA / META, home / KEPT
    if kafka_process.says_whose(source) and read_text(copy) != read_text(source):
        part = copy.with_name(copy.name + ".part")
        shutil.copyfile(source, part)
        part.replace(copy)


def _damaged(home: Path) -> Iterator[Path]:
    folder = home / DATA
    if not kafka_process.holds_data(home):
        return
    if not kafka_process.says_whose(folder / META):
        yield folder / META
    for path in (*folder.glob("*-checkpoint"), *_in_partitions(folder, "*-checkpoint")):
        if not _checkpoint(path) and path.exists():
            yield path
    for path in _in_partitions(folder, "partition.metadata"):
        if not re.fullmatch(rf"version: 0\ntopic_id: {ID}\s*", read_text(path)) and path.exists():
            yield path
    quorum, boot = folder / QUORUM / "quorum-state", folder / "bootstrap.checkpoint"
    if quorum.exists() and not _object(quorum):
        yield quorum
    if boot.exists() and not _batches(boot):
        yield boot
    # Topics are created after the first `bus up` has returned, so the registry has data too.
    topics = any(not path.name.startswith("__") for path in folder.glob("*-[0-9]*"))
    if topics and not _h2(home / H2):
        yield home / H2


def _in_partitions(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield the files of all partitions. Kafka may delete a partition at the same time."""
    for partition in list(folder.iterdir()):
        with suppress(FileNotFoundError, NotADirectoryError):
            yield from list(partition.glob(pattern))


def _is_spare(home: Path, path: Path) -> bool:
    if path.name == META:
        return kafka_process.says_whose(home / KEPT)
    if path.name == "bootstrap.checkpoint":  # not needed once the log has its content
        return any(log.stat().st_size for log in (home / DATA / QUORUM).glob("*.log"))
    if path.name == "partition.metadata":
        # Only this file holds a topic's id. The id of the quorum's topic never changes.
        return path.parent.name == QUORUM
    return path.name.endswith("-checkpoint") or path.name == "quorum-state"


def _checkpoint(path: Path) -> bool:
    """Return whether a checkpoint file is whole: version 0, the number of entries, the entries.

    Kafka reads an empty file as no entries.
    """
    lines = read_text(path).splitlines()
    return not lines or (lines[0] == "0" and lines[1:2] == [str(len(lines) - 2)])


def _object(path: Path) -> bool:
    try:
        return isinstance(json.loads(read_text(path)), dict)
    except ValueError:
        return False


def _batches(path: Path) -> bool:
    """Return whether the file holds whole record batches.

    A batch is an offset (8 bytes), the length of the rest (4 bytes), and the rest.
    """
    content, at = path.read_bytes(), 0
    while at + 12 <= len(content):
        at += 12 + max(0, struct.unpack_from(">i", content, at + 8)[0])
    return at == len(content) > 0


def _h2(path: Path) -> bool:
    """Return whether the file has a header and content.

    The header is there twice, in two blocks of 4 KiB; one of them must be whole.
    """
    try:
        with path.open("rb") as file:
            blocks = file.read(4096), file.read(4096)
            return any(block.startswith(b"H:2,") for block in blocks) and bool(file.read(1))
    except OSError:
        return False
