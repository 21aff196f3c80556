"""What all guests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.guests.image import install_project


@pytest.fixture(scope="session")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as guests see it, at /share; they leave results in its folder `out`."""
    folder = tmp_path_factory.mktemp("share")
    install_project(folder)
    return folder
