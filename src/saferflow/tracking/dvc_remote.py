"""Writes a DVC configuration for a process without the checkout: its cache and remotes, without secrets."""

import re
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from saferflow.tracking.graph import DVC

if TYPE_CHECKING:
    from configobj import ConfigObj

SECRET = re.compile(r"key|password|secret|token|connection_string|credential|custom_auth", re.IGNORECASE)
"""Names of a remote's settings that are left out: the environment or the reader's own configuration has them."""
REMOTE = re.compile(r"""['"]?remote ['"]?(?P<name>[^'"]+)""")


def dvc_address(digest: str, path: str) -> str:
    """The address of files in DVC's cache or remote, by hash, so that later runs do not change it."""
    return f"dvc://{digest}/{path}"


@cache
def cache_of(root: Path) -> Path:
    """The folder of a checkout's DVC cache."""
    done = subprocess.run([*DVC, "cache", "dir"], cwd=root, capture_output=True, text=True, check=False)
    return Path(done.stdout.strip())


def cache_named(folder: Path) -> Path:
    """The cache that the configuration in `folder` names; on another machine it may be missing."""
    return Path(_config(folder / ".dvc" / "config")["cache"]["dir"])


def write_config(root: Path, folder: Path) -> None:
    """Write `.dvc/config` into `folder`: the checkout's cache, and the remotes that git keeps, with absolute addresses."""
    config = _config(folder / ".dvc" / "config")
    config["core"] = {"no_scm": "true", "analytics": "false", "check_update": "false"}
    config["cache"] = {"dir": str(cache_of(root))}
    file = root / ".dvc" / "config"
    given = _config(file)
    if remote := given.get("core", {}).get("remote"):
        config["core"]["remote"] = remote
    for section in given.sections:
        if REMOTE.match(section):
            config[section] = dict(_settings(given[section], file.parent))
    (folder / ".dvc").mkdir()
    config.write()


def _config(file: Path) -> "ConfigObj":
    """DVC's configuration in a file; empty where there is no file."""
    from configobj import ConfigObj

    return ConfigObj(str(file), list_values=False, interpolation=False)


def _settings(section: Mapping[str, str], home: Path) -> Iterator[tuple[str, str]]:
    """Yield a remote's settings; local addresses become absolute, from the configuration's folder."""
    for name, value in section.items():
        if SECRET.search(name):
            continue
        local = name == "url" and "://" not in value
        yield name, str((home / value).resolve()) if local else value
