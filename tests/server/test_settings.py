"""One schema: flag over environment over file over default."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tensorwire.server.cli import serve, setting_options
from tensorwire.server.settings import Settings, SettingsError, load_settings


def test_flag_wins_over_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "server.toml"
    config.write_text("port = 1001\nbacklog = 11\nmax_streams = 21\n")
    monkeypatch.setenv("TENSORWIRE_PORT", "1002")
    monkeypatch.setenv("TENSORWIRE_BACKLOG", "12")
    settings = load_settings(config, {"port": "1003"})
    assert (settings.port, settings.backlog, settings.max_streams) == (1003, 12, 21)
    assert settings.max_pending == 256


def test_variables_that_others_set_are_no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORWIRE_PORT", "tcp://10.0.0.1:7411")  # Kubernetes, for a service called tensorwire
    monkeypatch.setenv("TENSORWIRE_ADMIN_PORT", "tcp://10.0.0.2:7412")
    monkeypatch.setenv("TENSORWIRE_PORT_7411_TCP_ADDR", "10.0.0.1")
    for name in ("TENSORWIRE_KEYS", "TENSORWIRE_BACKLOG", "TENSORWIRE_ENGINE"):  # docker compose
        monkeypatch.setenv(name, "")
    file = tmp_path / "server.toml"
    file.write_text("port = 1003\n")
    settings = load_settings(file)
    assert (settings.port, settings.admin_port, settings.backlog) == (1003, 7412, 1024)
    assert (settings.keys, settings.engine) == (None, None)


def test_sizes_have_units() -> None:
    settings = load_settings(flags={"pool_bytes": "3GiB", "write_high_water": "256KiB"})
    assert (settings.pool_bytes, settings.write_high_water) == (3 << 30, 256 << 10)


def test_a_message_may_be_as_large_as_half_the_pool_or_less_if_told() -> None:
    assert load_settings(flags={"pool_bytes": "2GiB"}).message_limit == 1 << 30
    assert load_settings(flags={"pool_bytes": "2GiB", "max_message_bytes": "2GiB"}).message_limit == 1 << 30
    assert load_settings(flags={"max_message_bytes": "1MiB"}).message_limit == 1 << 20


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_on_loopback_the_kernel_may_keep_more_unsent(host: str) -> None:
    assert load_settings(flags={"host": host}).low_water == 1 << 20
    assert load_settings(flags={"host": host, "unsent_low_water": "64KiB"}).low_water == 64 << 10


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_elsewhere_a_small_reply_waits_behind_little(host: str) -> None:
    assert load_settings(flags={"host": host}).low_water == 128 << 10


def test_an_error_names_flag_and_variable() -> None:
    with pytest.raises(SettingsError, match=r"drain_timeout.*--drain-timeout.*TENSORWIRE_DRAIN_TIMEOUT"):
        load_settings(flags={"drain_timeout": "-1"})


def test_an_unknown_key_in_the_file_is_an_error(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text("prot = 1\n")
    with pytest.raises(SettingsError, match="prot: is not a setting"):
        load_settings(config)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text("port = 7500\r\n", encoding="utf-8-sig")
    assert load_settings(tmp_path / "server.toml").port == 7500


def test_a_file_that_is_missing_or_no_toml_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        load_settings(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("port = = 1")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(broken)


TLS = {"tls_port": "0", "tls_cert": "server.pem", "tls_key": "server.key"}


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        ({"tls_port": "0"}, "needs tls_cert and tls_key"),
        ({"tls_port": "0", "tls_cert": "server.pem"}, "needs tls_cert and tls_key"),
        ({"tls_cert": "server.pem"}, "no TLS without tls_port"),
        ({"tls_principals": "robot=arm"}, "no TLS without tls_port"),
        ({**TLS, "tls_client_ca": "ca.pem"}, "go together"),
        ({**TLS, "tls_principals": "robot=arm"}, "go together"),
        ({**TLS, "tls_client_ca": "ca.pem", "tls_principals": "robot"}, "NAME=PRINCIPAL"),
        ({**TLS, "tls_client_ca": "ca.pem", "tls_principals": "robot="}, "NAME=PRINCIPAL"),
        ({**TLS, "tls_client_ca": "ca.pem", "tls_principals": ""}, "NAME=PRINCIPAL"),
    ],
)
def test_half_of_a_tls_is_refused(flags: dict[str, str], hint: str) -> None:
    with pytest.raises(SettingsError, match=hint):
        load_settings(flags=flags)


def test_principals_of_certificates_come_as_text_or_as_a_table(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text('[tls_principals]\n"robot 7, arm" = "arms"\n')
    flags = {**TLS, "tls_client_ca": "ca.pem"}
    assert load_settings(config, flags).tls_principals == {"robot 7, arm": "arms"}
    flags["tls_principals"] = "robot=arms, eye=eyes"
    assert load_settings(config, flags).tls_principals == {"robot": "arms", "eye": "eyes"}


def test_folders_for_links_come_as_text_or_as_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = (Path("/store"), Path("cache"))
    assert Settings(link_roots="/store, cache,").link_roots == both  # type: ignore[arg-type]
    monkeypatch.setenv("TENSORWIRE_LINK_ROOTS", "/store,cache")
    assert load_settings().link_roots == both
    monkeypatch.delenv("TENSORWIRE_LINK_ROOTS")
    (tmp_path / "server.toml").write_text('link_roots = ["/store", "cache"]')
    assert load_settings(tmp_path / "server.toml").link_roots == both


def test_every_setting_has_a_flag_and_a_description() -> None:
    assert [option.name for option in setting_options()] == list(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        assert len(field.description or "") > 20, name


def test_help_is_grouped_and_tells_defaults() -> None:
    result = CliRunner().invoke(serve, ["--help"], terminal_width=120)
    assert result.exit_code == 0
    for text in ("Network:", "Memory:", "Calls:", "--pool-bytes SIZE", "1 GiB", "TENSORWIRE_POOL_BYTES", "Examples:"):
        assert text in result.output


def test_a_bad_flag_is_one_readable_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(serve, [str(tmp_path), "--port", "many"])
    assert result.exit_code == 1
    assert "port" in result.output
    assert "Traceback" not in result.output
