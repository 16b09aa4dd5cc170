"""A problem of an agreement, in words for a privacy officer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bus.settings import meant_by

Level = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with an agreement.

    level: error: it must be corrected before the agreement can be applied. warning: look at it.
    file:  the agreement file; "" if the problem concerns none of them alone.
    key:   the key of the file, such as "share.categories"; "" for the whole file.
    text:  what is wrong and what to do, as a sentence.
    """

    level: Level
    file: str
    key: str
    text: str


def suggestion(name: str, names: list[str], otherwise: str) -> str:
    """Ask whether a name that looks like the unknown one was meant; else return `otherwise`."""
    meant = meant_by(name, names)
    return f'Did you mean "{meant}"?' if meant else otherwise
