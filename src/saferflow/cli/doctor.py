"""Examines the machine: each finding has its state, whether that is enough, and a remedy."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil
from packaging.utils import canonicalize_name
from rich.console import Console
from rich.text import Text

from saferflow.addresses import PROXIES, unusable_proxies
from saferflow.errors import PipelineError
from saferflow.shell import GPUS, hides_gpus

DISK_GB = 5
MEMORY_GB = 4
WRITTEN = (".", ".saferflow", "data", "logs", "models", "reports")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination."""

    what: str
    state: str
    good: bool
    remedy: str = ""
    needed: bool = True
    """Whether a run needs it; a finding that is neither good nor needed is a remark."""


def examine(root: Path) -> bool:
    """Print the findings; return whether all needed ones are good."""
    console, well = Console(highlight=False), True
    for finding in findings(root):
        sign, style = (
            ("ok", "green") if finding.good else (("missing", "red") if finding.needed else ("note", "yellow"))
        )
        console.print(Text.assemble((f"{sign:<8}", style), f"{finding.what:<16} {finding.state}"))
        if not finding.good and finding.remedy:
            console.print(Text(f"{'':8}{'':16} → {finding.remedy}"))
        well = well and (finding.good or not finding.needed)
    return well


def findings(root: Path) -> Iterator[Finding]:
    """Everything that a run needs of the machine."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", version, sys.version_info[:2] == (3, 11), "make run PYTHON=/path/to/python3.11")
    for program in ("git", "make"):
        where = shutil.which(program)
        yield Finding(program, where or "not on PATH", bool(where), f"install {program} from your system's packages")
    yield _packages(root)
    free = shutil.disk_usage(root).free / 2**30
    yield Finding(
        "disk", f"{free:.0f} GB free", free >= DISK_GB, f"free {DISK_GB} GB; dvc gc --workspace drops old outputs"
    )
    memory = psutil.virtual_memory().available / 2**30
    yield Finding(
        "memory", f"{memory:.1f} GB available", memory >= MEMORY_GB, f"the embedded profile wants {MEMORY_GB} GB"
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("cores", str(cores), cores >= 2, "fewer than 2 work, slowly", needed=False)
    yield _gpu()
    yield _folder(root)
    yield _proxy()
    yield _tool(
        "git state",
        ["git", "rev-parse", "--short", "HEAD"],
        root,
        "git init, git add, git commit: runs name their commit",
    )
    yield _tool(
        "dvc state", [sys.executable, "-m", "dvc", "status", "--json"], root, "dvc init, or clone the repository again"
    )
    barred = [name for name in WRITTEN if (root / name).exists() and not os.access(root / name, os.W_OK)]
    yield Finding("folders", ", ".join(barred) or "writable", not barred, f"chown or chmod u+w {' '.join(barred)}")
    yield _fonts()
    yield from _ports(root)


def _packages(root: Path) -> Finding:
    """Installed versions against constraints.txt."""
    file = root / "constraints.txt"
    if not file.exists():
        return Finding("packages", "no constraints.txt here", False, "run in the project's folder")
    wanted = dict(re.findall(r"^([\w.-]+)==([^\s;]+)$", file.read_text(encoding="utf-8"), re.MULTILINE))
    installed = {canonicalize_name(dist.name): dist.version.partition("+")[0] for dist in metadata.distributions() if dist.name}
    wrong = [
        f"{name} {here} (tested: {version})"
        for name, version in wanted.items()
        if (here := installed.get(canonicalize_name(name), version)) != version
    ]
    core = [name for name in ("torch", "transformers", "trl", "dvc", "prefect", "mlflow") if name not in installed]
    state = (
        f"not installed: {', '.join(core)}" if core else f"other versions: {', '.join(wrong)}" if wrong else "as tested"
    )
    return Finding("packages", state, not core and not wrong, "pip install -c constraints.txt -e .", needed=bool(core))


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("GPU", torch.cuda.get_device_name(0), True)
    if hidden := hides_gpus():
        return Finding("GPU", f"hidden by {hidden}", False, f"unset {GPUS}, where this machine has one", needed=False)
    return Finding("GPU", "none", False, "the embedded profile needs none; the real ones do", needed=False)


def _folder(root: Path) -> Finding:
    from saferflow.tracking.environment import refuse_folder

    try:
        refuse_folder(root.resolve())
    except PipelineError as error:
        return Finding("folder name", "not usable", False, str(error))
    return Finding("folder name", "usable", True)


def _proxy() -> Finding:
    """Proxies of the environment; requests to servers on this machine use none."""
    named = [name for name in PROXIES if os.environ.get(name)]
    if odd := unusable_proxies(os.environ):
        remedy = "set http:// proxies; servers on this machine work without"
        return Finding("proxy", f"cannot be used: {', '.join(odd)}", False, remedy, needed=False)
    return Finding("proxy", f"{', '.join(named)}; not for this machine" if named else "none", True)


def _tool(what: str, command: list[str], root: Path, remedy: str) -> Finding:
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(what, str(error), False, remedy)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    text = "readable" if done.returncode == 0 and what == "dvc state" else (lines[-1] if lines else "no answer")
    return Finding(what, text, done.returncode == 0, remedy)


def _fonts() -> Finding:
    from PIL import features

    scalable = features.check("freetype2")
    return Finding(
        "fonts",
        "Pillow's own" if scalable else "Pillow lacks FreeType",
        scalable,
        "pip install --force-reinstall pillow",
    )


def _ports(root: Path) -> Iterator[Finding]:
    import socket

    from saferflow.tracking import services

    for service in services.SERVICES:
        if address := services.running(service, root):
            yield Finding(f"port {service.name}", f"{service.name} answers on {address}", True)
            continue
        with socket.socket() as probe:
            taken = probe.connect_ex((services.HOST, service.port)) == 0
        text = f"{service.port} is taken" if taken else f"{service.port} is free"
        yield Finding(f"port {service.name}", text, not taken, "another free one will be used", needed=False)
