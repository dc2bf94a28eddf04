"""The Dockerfile and the KubeRay manifest, as far as they can be tested without Docker and Kubernetes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import Any

import pytest
import yaml

from opencode_tasks.opencode.binary import PINNED_VERSION

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deployments" / "docker" / "Dockerfile"
LIMIT_S = 300
# Commands that change the machine are not run.
MACHINE_COMMANDS = ("apt-get", "useradd")


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile in order: name and arguments, with joined lines."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    parts = (line.partition(" ") for line in text.splitlines() if line)
    return [(name, arguments) for name, _, arguments in parts]


def copy(arguments: str, into: Path) -> None:
    *sources, target = arguments.split()
    for source in sources:
        destination = into / target / Path(source).name if target.endswith("./") else into / target
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, destination, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, destination)


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_commands_of_the_dockerfile(tmp_path: Path) -> None:
    """A new environment replaces the Python of the image, and a folder replaces its root."""
    tree, python = tmp_path / "tree", tmp_path / "python"
    tree.mkdir()
    venv.create(python, with_pip=True)
    env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    env |= {"PATH": f"{python / 'bin'}{os.pathsep}{env['PATH']}"}
    env |= {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    count = 0
    for name, arguments in instructions():
        if name == "COPY":
            copy(arguments, tree)
        if name != "RUN" or arguments.startswith(MACHINE_COMMANDS):
            continue
        command = arguments.replace("--system", f"--python {shlex.quote(str(python / 'bin' / 'python'))}")
        done = subprocess.run(
            command,
            shell=True,
            cwd=tree,
            env=env,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        count += 1
    assert count == 2
    [command] = [json.loads(arguments) for name, arguments in instructions() if name == "CMD"]
    done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert "annotate" in done.stdout, done.stderr
    assert list((tmp_path / "cache").rglob(f"{PINNED_VERSION}/*/bin/opencode"))
    imports = [
        str(python / "bin" / "python"),
        "-c",
        "import psycopg, ray, prefect_ray, opencode_tasks.orchestration.flows",
    ]
    subprocess.run(imports, cwd=tmp_path, env=env, timeout=LIMIT_S, check=True)


@pytest.mark.slow
def test_options_and_version_of_the_kuberay_cluster() -> None:
    """``ray start`` knows all options, the version is that of the lock file, and no secret is in the file."""
    cluster: Any = yaml.safe_load((ROOT / "deployments" / "kuberay" / "raycluster.yaml").read_text())
    locked = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    [ray] = [package["version"] for package in locked if package["name"] == "ray"]
    assert cluster["spec"]["rayVersion"] == ray
    help_text = subprocess.run(
        [Path(sys.executable).with_name("ray"), "start", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        for name, value in group["rayStartParams"].items():
            assert f"--{name}" in help_text
            # KubeRay copies the values to a command line.
            assert isinstance(value, str)
        [container] = group["template"]["spec"]["containers"]
        assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]
        assert all("value" not in source for source in container["envFrom"])
    [resources] = shlex.split(groups[1]["rayStartParams"]["resources"])
    assert json.loads(resources) == {"opencode_creds": 1}
