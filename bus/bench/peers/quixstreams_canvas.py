"""Events to the CSV files of Canvas in quixstreams: consume, decode, translate, write, commit.

Run it with the Python of an environment that has quixstreams (see `bus.bench.quixstreams`). It
takes one argument, a JSON object with bootstrap, registry, group, product (the value of the entry
point), topics (topic by kind) and out. It prints one JSON object with records, seconds, cpuSeconds
and peakMiB.

The translations are those of the bus. Everything else is as in the documentation of the library:
its Avro deserializer, one dataframe for each topic, a batching sink, the default checkpoints.
"""

from __future__ import annotations

import csv
import json
import logging
import resource
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from quixstreams import Application  # type: ignore[import-not-found]
from quixstreams.models.serializers import SchemaRegistryClientConfig  # type: ignore
from quixstreams.models.serializers.avro import AvroDeserializer  # type: ignore
from quixstreams.sinks import BatchingSink, SinkBatch  # type: ignore

LAST = [0.0]
"""When the last rows were written (`time.perf_counter`)."""
NUMBER = [0]
"""How many records were written."""


class Rows(BatchingSink):  # type: ignore[misc]
    """Appends the rows of a checkpoint to a CSV file."""

    def __init__(self, path: Path, counts: bool) -> None:
        super().__init__()
        self._path = path
        self._counts = counts

    def setup(self) -> None:
        """Do nothing, because there is nothing to connect to."""

    def write(self, batch: SinkBatch) -> None:
        """Write the rows of a partition since the last checkpoint."""
        with self._path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(i.value.values() for i in batch)
        NUMBER[0] += batch.size * self._counts
        LAST[0] = time.perf_counter()


def main(about: dict[str, Any]) -> dict[str, Any]:
    """Do the job until no message has arrived for five seconds.

    Those five seconds are not counted.
    """
    product = EntryPoint("canvas", about["product"], "schoolbus.products").load()
    app = Application(
        broker_address=about["bootstrap"],
        consumer_group=about["group"],
        auto_offset_reset="earliest",
        consumer_extra_config={"isolation.level": "read_committed"},
        loglevel=logging.ERROR,
    )
    config = SchemaRegistryClientConfig(url=about["registry"])
    for kind, name in about["topics"].items():
        decode = AvroDeserializer(schema_registry_client_config=config)
        topic = app.topic(name, value_deserializer=decode, key_deserializer="str")
        frame = app.dataframe(topic)
        for at, (table, translate) in enumerate(product.translations(kind)):
            rows = frame.apply(translate).filter(lambda row: row is not None)
            rows.sink(Rows(Path(about["out"]) / f"{kind}-{table.name}", counts=at == 0))
    began = time.perf_counter()
    app.run(timeout=5.0, collect=False)
    used = resource.getrusage(resource.RUSAGE_SELF)
    status = Path("/proc/self/status")
    peak = (
        int(status.read_text("ascii").split("VmHWM:")[1].split()[0]) / 1024
        if status.exists()
        else used.ru_maxrss / 2**20
    )
    return {
        "records": NUMBER[0],
        "seconds": LAST[0] - began,
        "cpuSeconds": used.ru_utime + used.ru_stime,
        "peakMiB": peak,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]))) + "\n")
