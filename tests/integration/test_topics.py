"""The retention settings apply to existing topics."""

from __future__ import annotations

from tests.integration.commands import Commands, until


def test_topics_are_brought_in_line_and_nothing_is_lost_unasked(commands: Commands) -> None:
    commands.run("replay", "list")
    commands.run("produce", "http", "--new-key", "office")
    commands.run("consume", "canvas", "--out", "canvas", "--until-caught-up")
    student = f"{commands.settings.topic_prefix}.student"
    assert commands.run("topics", "plan", "--apply")["changed"] == {}
    commands.variables["BUS_RETENTION__HISTORY_DAYS"] = "400"
    changed = commands.run("topics", "plan", "--apply")["changed"]
    day = 24 * 60 * 60 * 1000
    assert changed[student] == {"min.compaction.lag.ms": [str(365 * day), str(400 * day)]}
    # Kafka answers with the old configuration for a moment.
    until(lambda: not commands.run("topics", "plan", "--apply")["changed"], "the new configuration")
    commands.variables["BUS_RETENTION__HISTORY_DAYS"] = "30"
    refused = commands.run("topics", "plan", "--apply", status=1)
    assert "--allow-loss" in refused["error"]
    assert student in commands.run("topics", "plan", "--apply", "--allow-loss")["changed"]
