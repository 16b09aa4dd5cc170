"""Where settings come from, and which source takes precedence."""

from __future__ import annotations

from pathlib import Path

import pytest

from bus import settings
from bus.errors import Stop

HASH = "ab" * 32


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder of secret files, as an orchestrator mounts one."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.setenv("BUS_SECRETS_DIR", str(folder))
    monkeypatch.setenv("BUS_CONFIG", str(tmp_path / "bus.toml"))
    (tmp_path / "bus.toml").touch()
    return folder


def test_a_secret_file_fills_a_nested_setting_without_its_line_end(secrets: Path) -> None:
    (secrets / "bus_kafka__sasl_password").write_text("from a file\n")
    assert settings.load().kafka.sasl_password.get_secret_value() == "from a file"


def test_secrets_of_a_product_and_of_a_source_join_what_the_environment_says_of_them(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUS_PRODUCTS__WEBHOOK__URL", "https://vendor.example")
    monkeypatch.setenv("BUS_PRODUCERS__HTTP__CLIENTS__SIS__SCOPES", "attendance")
    (secrets / "bus_products__webhook__secret").write_text("whsec_x")
    (secrets / "bus_producers__http__clients__sis__key_sha256").write_text(HASH)
    loaded = settings.load()
    assert loaded.products["webhook"] == {"url": "https://vendor.example", "secret": "whsec_x"}
    sis = {"scopes": "attendance", "key_sha256": HASH}
    assert loaded.producers["http"]["clients"]["sis"] == sis


def test_the_secret_of_a_vendors_webhook_comes_from_a_file_or_the_environment(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (secrets / "bus_vendors__webhook_secrets__math-app").write_text("whsec_file\n")
    monkeypatch.setenv("BUS_VENDORS__WEBHOOK_SECRETS", '{"library": "whsec_environment"}')
    found = settings.load().vendors.webhook_secrets
    assert {name: one.get_secret_value() for name, one in found.items()} == {
        "math-app": "whsec_file",
        "library": "whsec_environment",
    }
    assert "whsec" not in repr(found)


def test_the_environment_goes_before_a_file_and_a_file_before_bus_toml(
    secrets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bus.toml").write_text(
        '[registry]\nusername = "toml"\npassword = "toml"\nbearer_token = "toml"\n'
    )
    (secrets / "bus_registry__password").write_text("file")
    (secrets / "bus_registry__bearer_token").write_text("file")
    monkeypatch.setenv("BUS_REGISTRY__BEARER_TOKEN", "environment")
    registry = settings.load().registry
    assert registry.username == "toml"
    assert registry.password.get_secret_value() == "file"
    assert registry.bearer_token.get_secret_value() == "environment"


def test_a_folder_of_secrets_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUS_SECRETS_DIR", str(tmp_path / "gone"))
    with pytest.raises(Stop, match=r"BUS_SECRETS_DIR names .*gone"):
        settings.load()


def test_a_secret_that_may_not_be_read_is_named(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (secrets / "bus_kafka__sasl_password").write_text("x")

    def refuse(path: Path, **_: object) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    # root may read everything, and containers often run tests as root
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(Stop, match="bus_kafka__sasl_password cannot be read"):
        settings.load()


def test_a_value_of_the_wrong_form_is_named_and_never_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BUS_KAFKA", "not a table 1234")
    with pytest.raises(Stop, match="kafka") as stop:
        settings.load()
    assert "1234" not in str(stop.value)


def test_a_misspelt_table_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that is ignored silently is noticed only on the first day of school."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bus.toml").write_text("[kafkaa]\nbootstrap = 'here:9092'\n")
    with pytest.raises(Stop, match="kafkaa"):
        settings.load()


def test_a_file_that_is_no_toml_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bus.toml").write_text("[kafka]\nbootstrap = here:9092\n")
    with pytest.raises(Stop, match=r"bus\.toml is not valid TOML .*line 2"):
        settings.load()
