"""An office's mirror and proxy reach the steps of a build."""

from __future__ import annotations

import configparser
from pathlib import Path

from testbed.images.host import apt_proxies, pip_settings


def test_variables_win_over_files_and_later_files_over_earlier_ones(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("[global]\nindex-url = https://one.example\nproxy = http://proxy.example\n")
    second.write_text(
        "[global]\nindex-url = https://two.example\n[install]\ntrusted-host =\n  a.example\n  b.example\n"
    )
    written = pip_settings({"PIP_PROXY": "http://other.example"}, [first, second, tmp_path / "missing"])
    read = configparser.RawConfigParser()
    read.read_string(written)
    assert dict(read["global"]) == {
        "index-url": "https://two.example",
        "proxy": "http://other.example",
        "trusted-host": "a.example\nb.example",
    }


def test_without_registries_of_its_own_a_host_gives_pip_nothing(tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_text("[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n")
    assert pip_settings({"PIP_FIND_LINKS": "/a/folder/of/the/host"}, [file]) == ""


def test_of_apts_settings_its_proxies_are_taken() -> None:
    dump = (
        'APT::Architecture "amd64";\nAcquire::http::Proxy "http://proxy.example:3128";\nAcquire::Check-Date "false";\n'
    )
    assert apt_proxies(dump) == 'Acquire::http::Proxy "http://proxy.example:3128";\n'
