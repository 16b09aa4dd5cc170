"""The names that a source may have; no two sources share a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from bus.contract.example_records import a_record
from bus.errors import Stop
from bus.ingest import snapshot
from bus.ingest.pipeline import _fresh, produce
from bus.ingest.workspace import Workspace
from bus.registry.codec import Decoder, Encoder
from bus.settings import Settings
from bus.standard import KINDS


@pytest.mark.parametrize(
    "name", ["", "/", "../../etc", "a b", "a//b", "west/", "ä", "a\nb", "a@b", "[bold]", "x" * 101]
)
def test_an_odd_name_stops_before_anything_is_done(name: str) -> None:
    with pytest.raises(Stop, match="the source name is not valid; use letters, digits"):
        produce(Settings(), name, lambda _: None)


def test_no_two_sources_share_a_cache(tmp_path: Path) -> None:
    names = ["oneroster-csv/west", "oneroster-csv-west", "oneroster-csv.west", "oneroster-csv_west"]
    settings = [Settings(home=tmp_path, topic_prefix=prefix) for prefix in ("bus", "bus.west")]
    files = {snapshot.cache_file(one, f"/{name}") for one in settings for name in names}
    assert len(files) == len(settings) * len(names)
    assert snapshot.cache_file(settings[0], "/west.a") != snapshot.cache_file(settings[1], "/a")


def test_a_home_may_have_any_name(tmp_path: Path) -> None:
    cache = snapshot.cache_file(Settings(home=tmp_path / "it's [here]"), "/west")
    cache.parent.mkdir(parents=True)
    value = Encoder("student", 1).encode(a_record("student", sourcedId="s1"))
    batch = snapshot._MessageColumns(["s1"], [0], [0], [value])
    decoder = Decoder("student", lambda _: KINDS["student"].schema)
    with Workspace.open(cache.parent) as workspace:
        snapshot._open(workspace, cache, "mark")
        snapshot._read(workspace, cache, decoder, "student", batch)
        snapshot._upsert(workspace, "student")
        found = workspace.sql(f"SELECT sourcedId FROM {workspace.published('student')}")
    assert found == [("s1",)]
    assert [path.name for path in cache.parent.glob("*.ndjson")] == []


def test_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "west.extract"
    folder.mkdir()
    (folder / "users.csv").write_text("of a run that was killed")
    with _fresh(folder) as empty:
        assert list(empty.iterdir()) == []
        assert empty.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()
