"""The next steps that the demo suggests."""

from __future__ import annotations

from pathlib import Path

from bus.demo.story import next_commands

FOLDER = Path("/home/me/a folder/demo")


def test_the_commands_begin_in_the_demos_folder() -> None:
    commands = next_commands(FOLDER, 400, {"PATH": "x"}, up=False)
    assert commands[0] == "cd '/home/me/a folder/demo'"
    assert commands[1].endswith("bus up")
    assert not any("BUS_" in command for command in commands)
    assert len(next_commands(FOLDER, 400, {}, up=True)) == len(commands) - 1


def test_what_is_exported_does_not_lead_to_another_bus() -> None:
    """Environment variables take precedence over bus.toml, in which the demo names its home."""
    exported = {"BUS_HOME": "x", "BUS_KAFKA__BOOTSTRAP": "y", "BUS_CACHE_DIR": "z"}
    commands = next_commands(FOLDER, 400, exported, up=True)
    assert commands[1] == "unset BUS_KAFKA__BOOTSTRAP"
    assert all(command.startswith("BUS_HOME=. ") for command in commands[2:])
