"""Download of the programs, from a repository on loopback that holds two small files."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bus.errors import Stop
from bus.local import download
from bus.local.download import Artifact, artifacts, programs

JAR = b"a jar"


class Repository:
    """A served folder in Maven's layout, and the files that were requested from it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []
        asked = self.asked

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path.rpartition("/")[2])
                super().do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=root))
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def put(self, content: bytes, artifact: str, classifier: str, extension: str) -> Artifact:
        sha256 = hashlib.sha256(content).hexdigest()
        found = Artifact("org.x", artifact, "4.3.0", classifier, extension, sha256, len(content))
        path = self.root / found.path
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        return found


def archive(name: str) -> bytes:
    """Return a tar.gz that holds one file of this name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"run"))
    return out.getvalue()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    made = Repository(tmp_path / "repository")
    listed = [
        made.put(archive("quarkus-run.jar"), "registry", "all", "tar.gz"),
        made.put(JAR, "kafka_2.13", "", "jar"),
    ]
    monkeypatch.setattr(download, "artifacts", lambda: listed)
    monkeypatch.setattr(download, "TRIES", 0)
    monkeypatch.setenv("BUS_MAVEN_REPOSITORY", made.address + "/")
    monkeypatch.setenv("BUS_CACHE_DIR", str(tmp_path / "cache"))
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def test_programs_are_fetched_once(repository: Repository) -> None:
    found = programs()

    assert (found.kafka / "kafka_2.13-4.3.0.jar").read_bytes() == JAR
    assert (found.registry / "quarkus-run.jar").read_bytes() == b"run"
    assert sorted(repository.asked) == ["kafka_2.13-4.3.0.jar", "registry-4.3.0-all.tar.gz"]
    assert not (found.kafka.parent / "downloads").exists()

    assert programs() == found
    assert len(repository.asked) == 2


def test_what_was_damaged_since_is_fetched_again(repository: Repository) -> None:
    found = programs()
    repository.asked.clear()
    (found.kafka / "kafka_2.13-4.3.0.jar").write_bytes(b"a ja")

    programs()
    assert repository.asked == ["kafka_2.13-4.3.0.jar"]
    assert (found.kafka / "kafka_2.13-4.3.0.jar").read_bytes() == JAR

    repository.asked.clear()
    (found.registry / "quarkus-run.jar").unlink()
    programs()
    assert repository.asked == ["registry-4.3.0-all.tar.gz"]
    assert (found.registry / "quarkus-run.jar").read_bytes() == b"run"


def test_a_jar_of_an_older_version_does_not_stay_on_the_class_path(repository: Repository) -> None:
    found = programs()
    (found.kafka / "kafka_2.13-4.2.0.jar").write_bytes(b"old")
    programs()
    assert [path.name for path in found.kafka.glob("*.jar")] == ["kafka_2.13-4.3.0.jar"]


def test_another_file_than_the_pinned_one_is_refused(repository: Repository) -> None:
    path = repository.root / "org/x/kafka_2.13/4.3.0/kafka_2.13-4.3.0.jar"
    path.write_bytes(b"another jar")
    with pytest.raises(Stop, match=r"kafka_2\.13-4\.3\.0\.jar .* not the pinned file"):
        programs()


def test_no_network_is_said_with_the_mend_and_without_the_mirrors_password(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUS_MAVEN_REPOSITORY", "http://me:pa55word@127.0.0.1:1/maven")
    with pytest.raises(Stop, match="check the network and proxy") as raised:
        programs()
    assert "http://127.0.0.1:1/maven/org/x/" in str(raised.value)
    assert "pa55word" not in str(raised.value)


def test_a_missing_file_is_said_with_its_status(repository: Repository) -> None:
    (repository.root / "org/x/kafka_2.13/4.3.0/kafka_2.13-4.3.0.jar").unlink()
    with pytest.raises(Stop, match=r"kafka_2\.13-4\.3\.0\.jar .*HTTP status 404"):
        programs()


def test_an_archive_that_climbs_out_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.tar.gz"
    path.write_bytes(archive("../outside"))
    with pytest.raises(Stop, match="could not be unpacked"):
        download._unpack(path, tmp_path / "to")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.tar.gz"]


def test_a_full_disk_is_said_before_anything_is_fetched(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ROOM_MB", 10**9)
    with pytest.raises(Stop, match="free disk space or set BUS_CACHE_DIR"):
        programs()
    assert repository.asked == []


def test_a_cache_that_cannot_be_written_is_named(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BUS_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(Stop, match=r"is not writable: .*BUS_CACHE_DIR"):
        programs()


def test_the_pinned_list_names_every_file_once_with_its_sum() -> None:
    listed = artifacts()
    assert len({artifact.file for artifact in listed}) == len(listed)
    assert all(len(artifact.sha256) == 64 and artifact.size > 0 for artifact in listed)
    assert [a.file for a in listed if a.extension == "tar.gz"] == [
        "apicurio-registry-app-3.3.3-all.tar.gz"
    ]
