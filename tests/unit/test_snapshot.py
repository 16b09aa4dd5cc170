"""The cache of published records, and its updates from the topics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.contract.example_records import a_record, records
from bus.ingest import snapshot
from bus.ingest.workspace import Workspace
from bus.registry.codec import Decoder, Encoder
from bus.standard import KINDS

Cached = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cached]:
    """Return a function that reads batches of a kind into an empty cache and returns its content."""
    path = tmp_path_factory.mktemp("cache") / "west.duckdb"
    with Workspace.open(path.parent) as workspace:
        snapshot._open(workspace, path, "mark")

        def cached(kind: str, *batches: snapshot._MessageColumns) -> list[Any]:
            published = workspace.published(kind)
            workspace.sql(f"DELETE FROM {published}")
            decoder = Decoder(kind, lambda _: KINDS[kind].schema)
            for batch in batches:
                snapshot._read(workspace, path, decoder, kind, batch)
            snapshot._upsert(workspace, kind)
            return workspace.sql(f"SELECT * FROM {published} ORDER BY sourcedId")

        yield cached


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_a_batch_as_columns_is_what_it_is_record_by_record(
    cache: Cached, kind: str, data: st.DataObject
) -> None:
    said = [data.draw(records(kind)) | {"sourcedId": f"r{at}"} for at in range(3)] * 20
    values = [Encoder(kind, 1).encode(record) for record in said]
    ids = [record["sourcedId"] for record in said]
    batch = snapshot._MessageColumns(ids, [0] * 60, list(range(60)), values)
    one_by_one = [snapshot._MessageColumns([ids[at]], [0], [at], [values[at]]) for at in range(3)]
    assert cache(kind, batch) == cache(kind, *one_by_one)


def test_the_latest_stays_and_an_erasure_takes_away(cache: Cached) -> None:
    encode = Encoder("student", 1).encode
    values = [encode(a_record("student", sourcedId="s1", givenName=str(at))) for at in range(60)]
    batch = snapshot._MessageColumns(["s1"] * 60, list(range(60)), list(range(60)), [*values])
    (row,) = cache("student", batch)
    assert "59" in row
    erased = snapshot._MessageColumns(["s1"], [99], [99], [None])
    assert cache("student", batch, erased) == []


def test_of_two_in_a_millisecond_what_is_active_stays(cache: Cached) -> None:
    encode = Encoder("student", 1).encode
    moved = [
        encode(a_record("student", sourcedId="s1", status=status))
        for status in ("active", "tobedeleted")
    ]
    batch = snapshot._MessageColumns(["s1"] * 60, [0] * 60, list(range(60)), moved * 30)
    (row,) = cache("student", batch)
    assert "active" in row
