"""A folder with only what `pip install schoolbus` installs.

    python -m tests.light_install [EXTRA …]

prints the number of these packages and their size on this machine. It reads the metadata of the
installed packages, so nothing is downloaded.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[1]


def distributions(extras: Iterable[str] = ()) -> dict[str, metadata.Distribution]:
    """Return the packages that Schoolbus needs with these extras, by name, without Schoolbus."""
    asked = [Requirement(f"schoolbus[{','.join(extras)}]" if extras else "schoolbus")]
    seen: dict[str, set[str]] = {}
    found: dict[str, metadata.Distribution] = {}
    while asked:
        one = asked.pop()
        name = canonicalize_name(one.name)
        new = set(one.extras) - seen.get(name, set())
        if name in seen and not new:
            continue
        seen.setdefault(name, set()).update(new)
        found[name] = metadata.distribution(one.name)
        for line in found[name].requires or ():
            needed = Requirement(line)
            environments = [{"extra": extra} for extra in ("", *seen[name])]
            if needed.marker is None or any(map(needed.marker.evaluate, environments)):
                asked.append(needed)
    del found["schoolbus"]
    return found


def link(folder: Path, extras: Iterable[str] = ()) -> None:
    """Make a folder for PYTHONPATH that has these packages and the code of Schoolbus."""
    folder.mkdir()
    for each in distributions(extras).values():
        for top in {file.parts[0] for file in each.files or ()} - {"..", "__pycache__"}:
            target = Path(str(each.locate_file(top)))
            if not (folder / top).exists() and target.exists():
                (folder / top).symlink_to(target)
    for name in ("bus", "schemas"):
        (folder / name).symlink_to(REPOSITORY / name)


def size(each: metadata.Distribution) -> int:
    """Return how many bytes the files of a package take."""
    paths = [Path(str(each.locate_file(file))) for file in each.files or ()]
    return sum(path.stat().st_size for path in paths if path.is_file() and path.suffix != ".pyc")


if __name__ == "__main__":
    needed = distributions(sys.argv[1:])
    print(f"{len(needed)} packages, {sum(map(size, needed.values())) / 1e6:.0f} MB:")
    print(", ".join(sorted(needed)))
