"""Downloads the programs of the embedded bus once, into a cache that all homes share.

`artifacts.txt` pins the downloads by coordinates, SHA-256 and size. The cache is `BUS_CACHE_DIR`,
or the user's cache folder. The repository is `BUS_MAVEN_REPOSITORY`, or Maven Central. A damaged
file is downloaded again. Each start checks only sizes and times (the `.verified` file), as hashing
200 MB takes too long. `bus doctor` checks the hashes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from bus.errors import Stop
from bus.local.home import read_json, write_json
from bus.local.progress import Bar, progress

Say = Callable[[str], None]
"""Shows a person what is going on, one line for each call."""

MAVEN_CENTRAL = "https://repo.maven.apache.org/maven2"
"""Source: Apache Maven, "Introduction to Repositories" (the default remote repository)."""

TRIES = 3
"""How many times a failed download is repeated, with growing pauses."""

MARKER = ".verified"
ROOM_MB = 450
"""The disk space, in MB, that downloading and unpacking need: archive, unpacked files, jars."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A line of `artifacts.txt`."""

    group: str
    artifact: str
    version: str
    classifier: str
    extension: str
    sha256: str
    size: int

    @property
    def file(self) -> str:
        """Its file name in the repository."""
        tail = f"-{self.classifier}" if self.classifier else ""
        return f"{self.artifact}-{self.version}{tail}.{self.extension}"

    @property
    def path(self) -> str:
        """Its path in a repository with Maven's layout."""
        return f"{self.group.replace('.', '/')}/{self.artifact}/{self.version}/{self.file}"


@dataclass(frozen=True, slots=True)
class Programs:
    """The folders and the versions of the programs."""

    kafka: Path
    kafka_version: str
    registry: Path
    registry_version: str


def artifacts() -> list[Artifact]:
    """Return all pinned artifacts."""
    listed = Path(__file__).with_name("artifacts.txt").read_text("utf-8").splitlines()
    found = []
    for line in listed:
        if line and not line.startswith("#"):
            coordinates, sha256, size = line.split()
            group, artifact, version, *rest = coordinates.split(":")
            classifier, extension = rest or ("", "jar")
            found.append(
                Artifact(group, artifact, version, classifier, extension, sha256, int(size))
            )
    return found


def cache() -> Path:
    """Return the cache folder that all homes of this user share."""
    from platformdirs import user_cache_path

    named = os.environ.get("BUS_CACHE_DIR")
    return Path(named).absolute() if named else user_cache_path("schoolbus")


def repository() -> str:
    """Return the base URL of the repository, without a slash at its end."""
    return (os.environ.get("BUS_MAVEN_REPOSITORY") or MAVEN_CENTRAL).rstrip("/")


def without_password(address: str) -> str:
    """Return the URL without user and password, which the URL of a mirror may have."""
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def programs(say: Say = lambda _: None, folder: Path | None = None) -> Programs:
    """Return the programs; downloads and unpacks them if they are missing.

    Raises `Stop` if the download fails (network, disk) or the cache is not writable.
    """
    folder = folder or cache()
    found, missing = fetched(folder)
    if missing:
        with _alone(folder, say):
            _fetch_all(found, folder, say)
    return found


def fetched(folder: Path | None = None) -> tuple[Programs, int]:
    """Return the programs' folders and how many bytes are still to be downloaded."""
    folder = folder or cache()
    archive, jars = _wanted()
    broker = next(jar for jar in jars if jar.artifact.startswith("kafka_"))
    found = Programs(
        kafka=folder / f"kafka-{broker.version}",
        kafka_version=broker.version,
        registry=folder / f"apicurio-registry-{archive.version}",
        registry_version=archive.version,
    )
    missing = [] if _in_order(found.registry, [archive]) else [archive]
    missing += [] if _in_order(found.kafka, jars) else jars
    return found, sum(artifact.size for artifact in missing)


def _wanted() -> tuple[Artifact, list[Artifact]]:
    """Return the registry's archive and Kafka's jars."""
    listed = artifacts()
    archive = next(artifact for artifact in listed if artifact.extension == "tar.gz")
    return archive, [artifact for artifact in listed if artifact.extension == "jar"]


def _fetch_all(found: Programs, folder: Path, say: Say) -> None:
    archive, jars = _wanted()
    downloads = folder / "downloads"
    missing = [] if _in_order(found.registry, [archive]) else [(archive, downloads)]
    if not _in_order(found.kafka, jars):
        missing += [(jar, found.kafka) for jar in jars]
    if not missing:  # another `bus up` has fetched them while this one waited
        return
    _room(folder)
    known = {jar.file for jar in jars}
    for stray in _files(found.kafka):
        if stray.name not in known:
            stray.unlink()
    size = sum(artifact.size for artifact, _ in missing)
    with (
        progress(f"downloading Kafka {found.kafka_version} and its registry", size, say) as shown,
        ThreadPoolExecutor(4, thread_name_prefix="download") as pool,
    ):
        tasks = [pool.submit(_fetch, artifact, to, shown.bar()) for artifact, to in missing]
        try:
            for task in as_completed(tasks):
                task.result()
        except BaseException:
            shown.cancel()
            pool.shutdown(cancel_futures=True)
            raise
    if missing[0][0] is archive:
        say("unpacking the schema registry")
        _unpack(downloads / archive.file, found.registry)
        _mark(found.registry, [archive])
        shutil.rmtree(downloads, ignore_errors=True)
    _mark(found.kafka, jars)


def _fetch(artifact: Artifact, to: Path, bar: Bar) -> None:
    """Download one file, unless it already exists with the right hash."""
    import pooch
    import requests

    pooch.get_logger().setLevel("ERROR")
    address = f"{repository()}/{artifact.path}"
    shown = without_password(address)
    shelf = pooch.create(
        path=to,
        base_url="",
        registry={artifact.file: f"sha256:{artifact.sha256}"},
        urls={artifact.file: address},
        retry_if_failed=TRIES,
    )
    opened: list[requests.Response] = []  # pooch does not close failed responses

    def note(response: requests.Response, **_: object) -> None:
        opened.append(response)

    downloader = pooch.HTTPDownloader(
        progressbar=bar, chunk_size=1 << 18, timeout=60, hooks={"response": note}
    )
    try:
        shelf.fetch(artifact.file, downloader=downloader)
    except requests.RequestException as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        what = f"HTTP status {status}" if status else type(error).__name__
        raise Stop(
            f"{artifact.file} could not be downloaded from {shown} ({what}): check the "
            "network and proxy (HTTPS_PROXY) or set BUS_MAVEN_REPOSITORY to a mirror, and run "
            "`bus up` again"
        ) from None
    except ValueError:  # pooch raises this for a wrong hash
        raise Stop(
            f"{artifact.file} from {shown} is not the pinned file (its SHA-256 differs): a proxy "
            "or mirror changes it; set BUS_MAVEN_REPOSITORY to another repository"
        ) from None
    except OSError as error:
        raise Stop(
            f"{artifact.file} could not be written to {to}: {error.strerror}; free disk space or "
            "set BUS_CACHE_DIR to another folder"
        ) from None
    finally:
        for response in opened:
            response.close()
    bar.finish(artifact.size)


def _unpack(archive: Path, to: Path) -> None:
    """Unpack the archive so that `to` appears whole or not at all."""
    part = to.with_name(to.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(part, filter="data")
        shutil.rmtree(to, ignore_errors=True)
        part.rename(to)
    except (OSError, tarfile.TarError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise Stop(
            f"{archive.name} could not be unpacked to {to}: {error}; free disk space or set "
            "BUS_CACHE_DIR to another folder, and run `bus up` again"
        ) from None


def _files(folder: Path) -> Iterator[Path]:
    return (
        path
        for path in sorted(folder.rglob("*"))
        if not path.name.startswith(MARKER) and not path.is_dir()
    )


def damaged(found: Programs) -> list[Path]:
    """Return files whose content has changed, though size and time have not; reads all files."""
    return [
        folder / name
        for folder in (found.kafka, found.registry)
        for name, sum_ in read_json(folder / MARKER).get("sums", {}).items()
        if _sum(folder / name) != sum_
    ]


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state(folder: Path) -> dict[str, list[int]]:
    """Return the size and the time of the last change of each file."""
    return {
        path.relative_to(folder).as_posix(): [path.stat().st_size, path.stat().st_mtime_ns]
        for path in _files(folder)
    }


def _mark(folder: Path, wanted: list[Artifact]) -> None:
    files = _state(folder)
    sums = {name: _sum(folder / name) for name in files}
    content = {"of": [artifact.sha256 for artifact in wanted], "files": files, "sums": sums}
    write_json(folder / MARKER, content)


def _in_order(folder: Path, wanted: list[Artifact]) -> bool:
    """Return whether all files are there and unchanged since their hashes were checked."""
    try:
        marked, there = read_json(folder / MARKER), _state(folder)
    except OSError:  # a file was deleted during the check
        return False
    sums = [artifact.sha256 for artifact in wanted]
    return marked.get("of") == sums and marked.get("files") == there


def _room(folder: Path) -> None:
    free = shutil.disk_usage(folder).free // 1_000_000
    if free < ROOM_MB:
        raise Stop(
            f"{folder} has {free} MB left, but downloading Kafka and its registry takes "
            f"{ROOM_MB} MB: free disk space or set BUS_CACHE_DIR to another folder"
        )


@contextmanager
def _alone(folder: Path, say: Say) -> Iterator[None]:
    """Let one process at a time fill the cache; the others wait and then find it filled."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say("another `bus up` is downloading Kafka and its registry; waiting for it")
            lock.acquire(timeout=1800)
    except Timeout:
        raise Stop(
            f"another process has held {folder / '.lock'} for 30 minutes: end it and run "
            "`bus up` again"
        ) from None
    except OSError as error:
        raise Stop(
            f"the cache folder {folder} is not writable: {error.strerror}; set BUS_CACHE_DIR to "
            "another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()
