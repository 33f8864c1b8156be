from __future__ import annotations

import pytest

from olmo.exceptions import OLMoConfigurationError
from olmo.serve.serve_config import ServeConfig


def test_only_this_machine_is_served_and_nothing_is_fetched_by_default() -> None:
    config = ServeConfig()
    assert config.host == "127.0.0.1" and config.is_local and config.port == 8000
    assert not config.remote_hosts and config.media_root is None
    assert config.host_names == ("localhost", "127.0.0.1", "[::1]")


@pytest.mark.parametrize(("host", "is_local"), [
    ("localhost", True), ("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("0.0.0.0", False), ("::", False),
    ("192.168.0.4", False), ("example.org", False),
])  # fmt: skip
def test_which_hosts_only_this_machine_reaches(host: str, is_local: bool) -> None:
    config = ServeConfig(host=host)
    assert config.is_local is is_local
    assert (config.host_names is None) is not is_local
    assert ServeConfig(host=host, allowed_hosts=["A.example"]).host_names == ("a.example",)


@pytest.mark.parametrize(("changes", "match"), [
    ({"port": 70000}, "port: must be 0 to 65535"),
    ({"max_rows": 0}, "max_rows: must be at least 1"),
    ({"max_prompt_tokens": 0}, "max_prompt_tokens"),
    ({"request_timeout_s": 0.0}, "request_timeout_s: must be above 0"),
    ({"media_memory_bytes": 1}, "media_memory_bytes"),
    ({"media_root": "no/such/folder"}, "is not a folder"),
    ({"max_row": 1}, "max_rows"),
])  # fmt: skip
def test_limits_out_of_range(changes: dict[str, object], match: str) -> None:
    with pytest.raises(OLMoConfigurationError, match=match):
        ServeConfig.new(**changes)


def test_no_more_choices_than_rows() -> None:
    assert ServeConfig(max_rows=2).max_choices == 2
