"""Creates an environment with quixstreams once, and runs the peer in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from uuid import uuid4

from bus import plugins
from bus.bench.figures import Figure
from bus.bench.measured import Cost
from bus.errors import Stop
from bus.kafka import topics
from bus.kafka.client import client_settings
from bus.settings import Settings

VERSION = "3.28.1"
PACKAGES = (
    f"quixstreams[avro]=={VERSION}",
    # imports of the translations
    *("pydantic", "pydantic-settings", "structlog", "filelock", "tenacity", "httpx2"),
)
"""The packages of the environment."""


def python(folder: Path) -> Path:
    """Return the Python of the environment.

    The environment is created if it does not exist, which downloads packages.
    """
    home = folder / f"quixstreams-{VERSION}"
    program = home / "bin" / "python"
    if not (home / "ready").exists():
        venv.create(home, clear=True, with_pip=True)
        done = subprocess.run(
            [program, "-m", "pip", "install", "--quiet", *PACKAGES],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Stop(f"quixstreams could not be installed:\n{done.stderr[-500:]}")
        (home / "ready").touch()
    return program


def run(settings: Settings, program: Path, registry_url: str, out: Path) -> Figure:
    """Run the peer on the contents of the topics, over unencrypted connections.

    Each run has a new consumer group, which has read nothing.
    """
    about = {
        "bootstrap": client_settings(settings)["bootstrap.servers"],
        "registry": registry_url,
        "group": f"{settings.topic_prefix}.quixstreams-{uuid4().hex}",
        "product": plugins.entry("canvas").value,
        "topics": {k: topics.topic(settings, k) for k in plugins.product("canvas").kinds},
        "out": str(out),
    }
    # "" would be the current folder, which may contain any modules
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [program, Path(__file__).parent / "peers" / "quixstreams_canvas.py", json.dumps(about)],
        cwd=out,
        env=env,
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Stop("the quixstreams program failed; its output is above")
    result = json.loads(done.stdout.splitlines()[-1])
    cost = Cost(result["seconds"], result["cpuSeconds"], result["peakMiB"])
    return Figure(f"quixstreams {VERSION}", result["records"], cost)
