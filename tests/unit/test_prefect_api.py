from __future__ import annotations

from pathlib import Path

import pytest

from opencode_tasks.orchestration.prefect_api import may_be_configured

OWN = '[tool.prefect]\napi.url = "http://host/api"'


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A private PREFECT_HOME."""
    (tmp_path / "prefect").mkdir()
    return tmp_path / "prefect"


def test_without_variables_and_files_no_api_is_configured(home: Path, tmp_path: Path) -> None:
    assert not may_be_configured({"PREFECT_HOME": str(home)}, tmp_path)


@pytest.mark.parametrize("name", ["PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_PROFILE"])
def test_variables_configure_an_api(home: Path, tmp_path: Path, name: str) -> None:
    assert may_be_configured({"PREFECT_HOME": str(home), name: "local"}, tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("prefect/profiles.toml", '[profiles.mine]\nPREFECT_API_URL = "http://host/api"', True),
        ("prefect/profiles.toml", 'active = "ephemeral"\n[profiles.ephemeral]\n', False),
        ("prefect/profiles.toml", 'active = "local"\n', True),
        ("prefect.toml", '[api]\nurl = "http://host/api"', True),
        (".env", "PREFECT_API_URL=http://host/api", True),
        (".env", "DATABASE_URL=sqlite:///a.db", False),
        ("pyproject.toml", OWN, True),
        ("pyproject.toml", '[project.urls]\nhome = "https://host"', False),
    ],
)
def test_files_configure_an_api(home: Path, tmp_path: Path, name: str, text: str, found: bool) -> None:
    (tmp_path / name).write_text(text)
    assert may_be_configured({"PREFECT_HOME": str(home)}, tmp_path) is found


def test_a_profiles_file_in_another_folder_counts(home: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("PREFECT_API_URL = 'http://host/api'")
    environ = {"PREFECT_HOME": str(home), "PREFECT_PROFILES_PATH": str(tmp_path / "mine.toml")}
    assert may_be_configured(environ, tmp_path)
