"""A home that an earlier version made keeps working: the current code runs its second day.

Each archive beside this file holds the home of one version after its first day (see README.md). The
`story` fixture unpacks it, starts the bus and runs a second day. The tests then check that no event
comes twice, no product starts from the beginning, and no state is lost.
"""

from __future__ import annotations

import json
import shutil
import socket
import tarfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import canvas_model, sds_model
from tests.oneroster_truth import truth
from tests.upgrade.cluster import Cluster, Message, Offsets
from tests.upgrade.district import (
    PRODUCTS,
    SECRET,
    Counts,
    District,
    ids,
    post,
    rows_in,
)
from tests.webhook_receiver import Receiver

pytestmark = pytest.mark.longest

ARCHIVES = sorted(Path(__file__).parent.glob("home-*.tar.xz"))
QUARANTINE = "schoolbus.quarantine"
CHANGES = ("created", "updated", "withdrawn")
QUARANTINED = ("quarantine", "list", "--all")
"""The options also list faults that are no longer in the extract on the second day."""


@dataclass(frozen=True, slots=True)
class Story:
    """What happened on the second day.

    ends, committed:    at each step, in order.
    answers:            of the HTTP source, to the requests of the first day.
    without_schema:     why no opt-out could be entered before `bus schemas apply`.
    applied:            the kinds whose schemas `bus schemas apply` registered, at the end.
    opt_outs:           the active opt-outs, after it.
    told:               how often the vendor received each event.
    messages, reported: of the record topics and of the quarantine, all at the end.
    """

    before: dict[str, Any]
    folder: Path
    ports: tuple[dict[str, int], dict[str, int]]
    schemas: dict[str, Any]
    without_schema: str
    applied: list[str]
    opt_outs: list[dict[str, Any]]
    again: Counts
    second: Counts
    ends: dict[str, Offsets]
    committed: list[dict[str, Offsets]]
    answers: list[Any]
    delivered: dict[str, dict[str, int]]
    told: Counter[str]
    new_zips: list[Path]
    set_rows: dict[str, int]
    resumed: dict[str, Any]
    replays: list[dict[str, Any]]
    dead_letters: list[dict[str, Any]]
    faults: list[dict[str, Any]]
    messages: list[Message]
    reported: list[Message]

    def new(self) -> list[Message]:
        """Return what the second day published, and any first-day requests that came again."""
        return [one for one in self.messages if one.offset >= self.before["ends"][one.place]]


def unpacked(archive: Path, folder: Path) -> District:
    """Unpack the home of an archive and its other files into a folder."""
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return District(folder)


@contextmanager
def taken(ports: dict[str, int]) -> Iterator[None]:
    """Listen on these ports, as other programs on a machine may."""
    with ExitStack() as stack:
        for port in ports.values():
            listener = stack.enter_context(socket.socket())
            # closed connections on these ports do not keep the bus from starting either
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):  # another program already listens there
                listener.bind(("127.0.0.1", port))
                listener.listen()
        yield


def remembered(district: District) -> dict[str, int]:
    """Return the ports that a home remembers."""
    found: dict[str, int] = json.loads((district.home / "bus.json").read_text("utf-8"))["ports"]
    return found


@pytest.fixture(scope="module", params=ARCHIVES, ids=lambda path: path.name)
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """The second day of a home."""
    district = unpacked(request.param, tmp_path_factory.mktemp("upgrade"))
    before = json.loads((district.folder / "manifest.json").read_text("utf-8"))
    run, old_ports, old_zips = district.commands.run, remembered(district), district.zips()
    ends: dict[str, Offsets] = {}
    with taken(old_ports), district.up() as bootstrap, Receiver(SECRET) as vendor:
        cluster = Cluster(bootstrap)
        ends["up"], committed = cluster.ends(), [cluster.committed()]
        checked = run("schemas", "check")
        again = district.take(1)
        ends["day 1 again"] = cluster.ends()
        with district.service() as app:
            answers = [post(app, one) for one in before["requests"]]
            ends["requests again"] = cluster.ends()
            post(app, _next_day(before["requests"][0]))
        second = district.take(2)
        ends["day 2"] = cluster.ends()
        with ThreadPoolExecutor() as pool:  # they are separate processes
            got = pool.map(lambda product: district.consume(product, vendor), PRODUCTS)
            delivered = dict(zip(PRODUCTS, got, strict=True))
        committed.append(cluster.committed())
        new_zips = [path for path in district.zips() if path not in old_zips]
        (paused,) = [id_ for id_, status in before["replays"].items() if status == "paused"]
        resumed = run("replay", "resume", paused, "--out", str(district.canvas))
        committed.append(cluster.committed())
        lists = ("replay", "list"), ("deadletters", "list", "canvas"), QUARANTINED
        with ThreadPoolExecutor() as pool:
            shown = list(pool.map(lambda arguments: run(*arguments), lists))
        student = next(
            one.key for one in cluster.messages(["schoolbus.student"]) if one.key and one.value
        )
        opt_out = ("optouts", "add", student, "--scope", "protected", "--decided-by", "court")
        without_schema = run(*opt_out, status=1)["error"]
        applied = run("schemas", "apply")
        run(*opt_out)
        return Story(
            before=before,
            folder=district.folder,
            ports=(old_ports, remembered(district)),
            schemas=checked,
            without_schema=without_schema,
            applied=[one["kind"] for one in applied["schemas"] if one["registered"]],
            opt_outs=run("optouts", "list", "--why", "a test")["optOuts"],
            again=again,
            second=second,
            ends=ends,
            committed=committed,
            answers=answers,
            delivered=delivered,
            told=ids(vendor),
            new_zips=new_zips,
            set_rows=district.set_rows(),
            resumed=resumed,
            replays=shown[0]["replays"],
            dead_letters=shown[1]["deadLetters"],
            faults=shown[2]["faults"],
            messages=cluster.messages(before["recordTopics"]),
            reported=cluster.messages([QUARANTINE]),
        )


def test_it_starts_where_other_programs_have_its_ports(story: Story) -> None:
    old, new = story.ports
    assert old.keys() == new.keys()
    assert not set(old.values()) & set(new.values())


def test_nothing_of_the_home_is_lost(story: Story) -> None:
    assert story.ends["up"] == story.before["ends"]
    assert story.committed[0] == story.before["committed"]


def test_the_schemas_are_compatible(story: Story) -> None:
    assert story.schemas["compatible"]
    assert [one for one in story.schemas["schemas"] if one["state"] == "incompatible"] == []


def test_a_new_kind_needs_its_schema_and_the_others_do_not_wait_for_it(story: Story) -> None:
    states = {one["kind"]: one["state"] for one in story.schemas["schemas"]}
    assert states["optOut"] == "new"
    assert "schoolbus.optOut-value is not registered" in story.without_schema
    assert "bus schemas apply" in story.without_schema
    assert "optOut" in story.applied
    assert [one["scope"] for one in story.opt_outs] == ["protected"]


def test_the_first_day_again_publishes_nothing(story: Story) -> None:
    assert changes(story.again) == {}
    assert story.ends["day 1 again"] == story.ends["up"]


def test_the_second_day_publishes_what_changed(story: Story) -> None:
    assert changes(story.second) == changes(story.before["day2"]["records"])
    published = Counter(one.topic.rpartition(".")[2] for one in story.new())
    published["attendance"] -= 1  # came by HTTP
    expected = {
        kind: sum(counts.values())
        for kind, counts in changes(story.before["day2"]["records"]).items()
    }
    assert dict(+published) == expected


def test_no_event_is_published_twice(story: Story) -> None:
    known = [one for one in story.messages if "ce_id" in one.headers]
    assert len(story.messages) - len(known) == 1  # the rubbish message
    twice = [
        id_ for id_, times in Counter(one.headers["ce_id"] for one in known).items() if times > 1
    ]
    assert twice == []
    stands: dict[tuple[str, str], Message] = {}
    for one in known:
        last = stands.get((one.place, one.key))
        assert last is None or last.value != one.value, f"{one.place} {one.key}: the same again"
        created = one.headers["ce_type"].endswith(".created")
        stood = last is not None and not last.headers["ce_type"].endswith(".withdrawn")
        assert not (created and stood), f"{one.place} {one.key}: created twice"
        stands[one.place, one.key] = one


def test_known_faults_are_not_reported_again(story: Story) -> None:
    assert story.ends["day 1 again"][f"{QUARANTINE}/0"] == story.before["ends"][f"{QUARANTINE}/0"]
    times = Counter(one.key for one in story.reported if one.value)
    assert [fault for fault, number in times.items() if number > 1] == []
    assert alike(story.faults[: len(story.before["quarantine"])], story.before["quarantine"])
    new = len(story.faults) - len(story.before["quarantine"])
    assert new == story.before["day2"]["faults"]


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_product_gets_only_what_is_new(story: Story, product: str) -> None:
    delivered = dict(story.delivered[product])
    # The attendance that came by HTTP on this day is not part of the extract.
    if "schoolbus.attendance/0" in story.before["committed"][f"schoolbus.{product}"]:
        delivered = {kind: n for kind, n in delivered.items() if kind != "attendance"}
    assert delivered == story.before["day2"]["delivered"][product]


def test_canvas_gets_one_zip_of_changed_rows_after_all_others(story: Story) -> None:
    out = story.folder / "out" / "canvas"
    (new,) = story.new_zips
    assert rows_in(new) == story.before["day2"]["canvas"]
    old = story.before["canvasZips"]
    assert new.name > max(old)
    assert int(new.stem.rpartition("-")[2]) == len(old) + 1
    journal = json.loads((out / ".schoolbus" / "canvas.json").read_text("utf-8"))
    assert journal["count"] == len(list(out.glob("*.zip")))
    state = canvas_model.apply(sorted(out.glob("*.zip")))  # includes those of the replay
    assert canvas_model.rosters(state) == truth(story.folder / "day-2.zip").rosters


def test_the_set_of_school_data_sync_is_whole(story: Story) -> None:
    state = sds_model.load(story.folder / "out" / "sds")
    before, after = dict(story.before["day2"]["set"]), dict(story.set_rows)
    # Version 0.1.0 kept users who no longer have a role or a relationship.
    assert after.pop("users.csv") <= before.pop("users.csv")
    assert after == before
    named = {row["userSourcedId"] for row in state["roles.csv"].values()}
    for row in state["relationships.csv"].values():
        named |= {row["userSourcedId"], row["relationshipUserSourcedId"]}
    assert {user for (user,) in state["users.csv"]} == named
    assert sds_model.rosters(state) == truth(story.folder / "day-2.zip").rosters


def test_the_vendor_gets_each_new_event_once(story: Story) -> None:
    topics = {f"schoolbus.{kind}" for kind in story.before["told"]}
    new = Counter(one.headers["ce_id"] for one in story.new() if one.topic in topics)
    assert new
    assert story.told == new


def test_committed_offsets_never_go_back(story: Story) -> None:
    for earlier, later in zip(story.committed, story.committed[1:], strict=False):
        assert earlier.keys() <= later.keys()
        for group, offsets in earlier.items():
            back = {at: n for at, n in offsets.items() if later[group].get(at, -1) < n}
            assert back == {}, group
    # A group with a new name would read everything again.
    assert story.committed[-1].keys() == story.before["committed"].keys()


def test_a_repeated_request_is_answered_again_and_not_done_again(story: Story) -> None:
    assert story.answers == [one["answer"] for one in story.before["requests"]]
    for topic in story.before["recordTopics"]:
        for place in (at for at in story.before["ends"] if at.startswith(f"{topic}/")):
            assert story.ends["requests again"][place] == story.before["ends"][place], place


def test_a_paused_replay_is_resumed_to_its_end(story: Story) -> None:
    assert (story.resumed["status"], story.resumed["share"]) == ("done", 1.0)
    assert story.resumed["left_out"] == 0
    shown = {one["id"]: one["status"] for one in story.replays}
    assert shown == dict.fromkeys(story.before["replays"], "done")
    assert [one["why"] for one in story.replays] == ["a rehearsal", "to be resumed"]


def test_the_dead_letter_is_still_there(story: Story) -> None:
    assert alike(story.dead_letters, story.before["deadLetters"]["canvas"])
    assert len(story.dead_letters) == 1


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name)
def test_a_lost_cache_changes_nothing(archive: Path, tmp_path: Path) -> None:
    """The bus reads the last published state from the topics again."""
    district = unpacked(archive, tmp_path)
    before = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    shutil.rmtree(district.home / "published")
    with district.up() as bootstrap:
        assert changes(district.take(1)) == {}
        assert changes(district.take(2)) == changes(before["day2"]["records"])
        cluster = Cluster(bootstrap)
        published = cluster.messages(before["recordTopics"])
        reported = cluster.messages([QUARANTINE])
    new = [one for one in published if one.offset >= before["ends"][one.place]]
    expected = sum(sum(one.values()) for one in changes(before["day2"]["records"]).values())
    assert len(new) == expected
    faults = Counter(one.key for one in reported if one.value)
    assert len(faults) == len(before["quarantine"]) + before["day2"]["faults"]
    assert set(faults.values()) == {1}  # no fault is reported again


def test_there_is_a_home_to_try() -> None:
    assert ARCHIVES


def alike(found: list[dict[str, Any]], before: list[dict[str, Any]]) -> bool:
    """Return whether the faults equal those of the earlier version, without later keys."""
    later = {"code", "count", "column"}

    def said(one: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in one.items() if name not in later}

    return [said(one) for one in found] == [said(one) for one in before]


def _next_day(request: dict[str, Any]) -> dict[str, Any]:
    """Return a request like one of the first day, with another date and key."""
    body = json.loads(request["body"]) | {"eventDate": "2026-11-25"}
    return request | {"key": "second-day-0", "body": json.dumps(body)}


def changes(counts: Counts) -> Counts:
    """Return the numbers of published changes by kind, without zeros."""
    found = {
        kind: {name: number for name in CHANGES if (number := one[name])}
        for kind, one in counts.items()
    }
    return {kind: one for kind, one in found.items() if one}
