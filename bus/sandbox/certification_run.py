"""Runs one certification: starts a bus with a district, runs the program, returns the report."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bus import local
from bus.errors import Stop
from bus.sandbox.certification import Certification, CertificationReport
from bus.sandbox.fitted_agreement import fitted
from bus.sandbox.living_sandbox import started
from bus.sandbox.sandbox_home import running_bus
from bus.sandbox.subscriber import Subscriber
from bus.sandbox.vendor_bus import VendorBus, sandbox_settings
from bus.settings import Settings
from bus.vendors.agreement import Agreement
from bus.vendors.applied import today

SECTIONS = 2
"""The least number of classes of one subject in a school. It gives about 100 students."""


def certified(
    agreement: Agreement,
    command: Sequence[str],
    kinds: Sequence[str],
    patience: float,
    note: Callable[[str], None],
    ending: Callable[[], None] = lambda: None,
) -> tuple[CertificationReport, list[str]]:
    """Certify a program on a new bus; return the report, and the program's last lines of output.

    The last lines are for the vendor. If all steps passed, there are none.

    agreement: the agreement as its file has it.
    kinds:     the kinds that the program reads; empty: all.
    ending:    called before the bus is stopped, however the run ends.
    """
    with tempfile.TemporaryDirectory(prefix="bus-certify-", ignore_cleanup_errors=True) as folder:
        home = Path(folder) / "bus"
        note("starting the bus …")
        with running_bus(home, note, ending):
            return certified_on(
                sandbox_settings(home), agreement, command, kinds, patience, Path(folder), note
            )


def certified_on(
    settings: Settings,
    agreement: Agreement,
    command: Sequence[str],
    kinds: Sequence[str],
    patience: float,
    folder: Path,
    note: Callable[[str], None],
) -> tuple[CertificationReport, list[str]]:
    """Certify a program on a bus that is up and has no district; see `certified`.

    folder: an empty folder. A folder for the program's state is made in it.
    """
    fit = fitted(agreement, today())
    for text in fit.notes:
        note(text)
    with VendorBus(settings, fit.agreement) as bus:
        shared = tuple(bus.scope.kinds)
        if unknown := [kind for kind in kinds if kind not in shared]:
            raise Stop(
                f"the agreement shares no {', '.join(unknown)}; it shares {', '.join(shared)}"
            )
        started(bus, SECTIONS)
        own = folder / "program"
        own.mkdir()
        reads = tuple(kind for kind in shared if not kinds or kind in kinds)
        program = Subscriber(settings, fit.agreement.name, reads, command, own)
        steps = Certification(bus, program, patience, note).run()
        report = CertificationReport(
            agreement,
            shlex.join(command),
            reads,
            _versions(settings),
            datetime.now(UTC),
            steps,
        )
        return report, [] if report.passed else program.last_lines()


def _versions(settings: Settings) -> dict[str, str]:
    running = local.status(settings.home).running if settings.embedded else {}
    return {
        "schoolbus": version("schoolbus"),
        **{name: one.version for name, one in sorted(running.items())},
    }
