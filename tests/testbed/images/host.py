"""What of this machine's settings the steps of a build need to reach their package registries.

It is mounted while they run. Of it a layer may get an empty file, the point where it was mounted, and never content.
"""

from __future__ import annotations

import configparser
import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
# Not find-links, which may be a folder of this machine.
PIP_SETTINGS: Final = ("index-url", "extra-index-url", "trusted-host", "proxy")


def volumes(folder: Path) -> list[str]:
    """buildah's options, and in `folder`, which must be private and outlive the build, the files that they mount."""
    mounted = {CERTIFICATES: CERTIFICATES}
    for target, text in (
        (Path("/etc/pip.conf"), pip_settings(os.environ, _pip_files())),
        (Path("/etc/apt/apt.conf.d/90host"), apt_proxies(_apt_settings())),
    ):
        if text:
            mounted[target] = folder / target.name
            mounted[target].write_text(text)
    return [f"--volume={source}:{target}:ro" for target, source in mounted.items()]


def pip_settings(environment: Mapping[str, str], files: Iterable[Path]) -> str:
    """A pip.conf with the registries that pip uses here, or nothing where it uses its own.

    Variables win over files, a later file over an earlier one.
    """
    found: dict[str, str] = {}
    for file in files:
        config = configparser.RawConfigParser()
        config.read(file)
        for section in ("global", "install"):
            if config.has_section(section):
                found.update({key: value for key, value in config.items(section) if key in PIP_SETTINGS})
    for key in PIP_SETTINGS:
        if value := environment.get(f"PIP_{key.upper().replace('-', '_')}"):
            found[key] = value
    # A value of several lines goes on by indentation.
    lines = [f"{key} = " + "\n  ".join(value.split()) for key, value in sorted(found.items())]
    return "\n".join(["[global]", *lines, ""]) if lines else ""


def apt_proxies(dump: str) -> str:
    """Of what `apt-config dump` prints, how its repositories are reached."""
    wanted = ("Acquire::http::Proxy", "Acquire::https::Proxy")
    return "".join(f"{line}\n" for line in dump.splitlines() if line.startswith(wanted))


def _pip_files() -> list[Path]:
    named = os.environ.get("PIP_CONFIG_FILE")
    home = Path.home()
    files = [Path("/etc/pip.conf"), home / ".pip" / "pip.conf", home / ".config" / "pip" / "pip.conf"]
    return [*files, *([Path(named)] if named else [])]


def _apt_settings() -> str:
    return subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True).stdout
