"""The recipes for images and Kubernetes, as far as they can be run without either."""

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
# What changes the machine itself: here only looked at.
OF_THE_MACHINE = ("apt-get", "useradd")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order: a word and what follows it, lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    whole = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in whole.splitlines() if line)]


def copy(words: str, into: Path) -> None:
    *sources, target = words.split()
    for source in sources:
        there = into / target / Path(source).name if target.endswith("./") else into / target
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, there, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, there)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_command_of_the_dockerfile_runs_on_a_bare_tree(tmp_path: Path) -> None:
    """In the place of the image's Python is a new environment, in that of its root a folder."""
    tree, python = tmp_path / "tree", tmp_path / "python"
    tree.mkdir()
    venv.create(python, with_pip=True)
    env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    env |= {"PATH": f"{python / 'bin'}{os.pathsep}{env['PATH']}"}
    env |= {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    ran = 0
    for word, rest in instructions():
        if word == "COPY":
            copy(rest, tree)
        if word != "RUN" or rest.startswith(OF_THE_MACHINE):
            continue
        command = rest.replace("--system", f"--python {shlex.quote(str(python / 'bin' / 'python'))}")
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
        ran += 1
    assert ran == 2
    [command] = [json.loads(rest) for word, rest in instructions() if word == "CMD"]
    told = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert "annotate" in told.stdout, told.stderr
    assert list((tmp_path / "cache").rglob(f"{PINNED_VERSION}/*/bin/opencode"))
    imports = [
        str(python / "bin" / "python"),
        "-c",
        "import psycopg, ray, prefect_ray, opencode_tasks.orchestration.flows",
    ]
    subprocess.run(imports, cwd=tmp_path, env=env, timeout=LIMIT_S, check=True)


def test_the_cluster_of_kuberay_starts_ray_as_ray_can_be_started() -> None:
    """Options are what ``ray start`` knows, versions those of the lock, secrets in no line."""
    cluster: Any = yaml.safe_load((ROOT / "deployments" / "kuberay" / "raycluster.yaml").read_text())
    locked = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    [ray] = [package["version"] for package in locked if package["name"] == "ray"]
    assert cluster["spec"]["rayVersion"] == ray
    told = subprocess.run(
        [Path(sys.executable).with_name("ray"), "start", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        for name, value in group["rayStartParams"].items():
            assert f"--{name}" in told
            # KubeRay puts them on a command line as they are.
            assert isinstance(value, str)
        [container] = group["template"]["spec"]["containers"]
        assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]
        assert all("value" not in one for one in container["envFrom"])
    [offered] = shlex.split(groups[1]["rayStartParams"]["resources"])
    assert json.loads(offered) == {"opencode_creds": 1}
