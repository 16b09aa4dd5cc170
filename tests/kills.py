"""Kills a command at each of its steps, one run after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

import pytest


class Killed(BaseException):
    """The process ended here. It is no `Exception`, so nothing handles it."""


class Kills:
    """Ends a run before, in the middle of, or after one of its calls of some functions.

    functions: dotted names of the functions that have an effect.
    halves:    of these, the ones whose last argument is a sequence of effects: they may end after
               the first one.
    """

    def __init__(self, functions: Sequence[str], halves: Sequence[str] = ()) -> None:
        self._functions, self._halves = functions, halves
        self._at, self._passed = 0, 0

    def moments(self) -> Iterator[int]:
        """Yield the moments at which to end a run, until a run comes to its end."""
        while True:
            yield self._at
            if self._passed <= self._at:
                return
            self._at += 1

    def run(self, act: Callable[[], object]) -> bool:
        """Call the function until it is killed; return whether it was."""
        self._passed = 0
        with pytest.MonkeyPatch.context() as patch:
            for name in self._functions:
                where, _, function = name.rpartition(".")
                module = import_module(where)
                patch.setattr(module, function, self._step(name, getattr(module, function)))
            try:
                act()
            except Killed:
                return True
        return False

    def _step(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            self._moment()
            if name in self._halves:
                *first, effects = arguments
                effects = list(effects)
                if self._passed == self._at and len(effects) > 1:
                    original(*first, effects[:1])
                self._moment()
                arguments = (*first, effects)
            found = original(*arguments, **named)
            self._moment()
            return found

        return step

    def _moment(self) -> None:
        self._passed += 1
        if self._passed == self._at + 1:
            raise Killed
