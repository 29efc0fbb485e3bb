"""What a shell, a scheduler or a container leaves in the environment, put right before a library reads it. Source: ours."""

import os
import re
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path

from saferflow.addresses import spare_local

RANKS = frozenset(
    (
        "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "ROLE_RANK", "CROSS_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE",
        "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "ROLE_NAME", "LOCAL_SIZE", "CROSS_SIZE", "MASTER_ADDR", "MASTER_PORT",
        "PMI_RANK", "PMI_SIZE", "PMI_LOCAL_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS",
    )
)  # fmt: skip
RANK_PREFIXES = (
    "TORCHELASTIC_", "PET_", "ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_", "OMPI_COMM_WORLD_",
    "MV2_COMM_WORLD_", "PALS_",
)  # fmt: skip
"""Variables by which launchers tell a process its place among others; torch, accelerate and DeepSpeed obey them."""
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
PLACES = ("RANK", "LOCAL_RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
LAUNCHER = "SAFERFLOW_LAUNCHER"
"""Holds the process number of the launcher that we became; in a shell that inherited it, that is no ancestor."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMEXPR_MAX_THREADS")
COUNT = re.compile(r"\s*0*[1-9]\d{0,4}\s*(?:,\s*0*[1-9]\d{0,4}\s*)*")
"""A number of threads, or OpenMP's list of them by level."""
NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
"""Where Python looks for the user's name before it asks the system."""
GPUS = "CUDA_VISIBLE_DEVICES"


def settle(environ: MutableMapping[str, str] = os.environ, *, ranks: bool = True) -> None:
    """Call it first in every process: loopback without a proxy, usable thread counts, a user's name, streams that print.

    Args:
        ranks: whether a launcher's variables are forgotten too; a stage that starts several processes looks at them itself.
    """
    spare_local(environ)
    _forget_odd_threads(environ)
    _name_the_user(environ)
    print_anything()
    if ranks and (left := forget_ranks(environ)):
        _say(f"{listed(left)} of another launcher ignored")


def print_anything() -> None:
    """Let no character that the terminal's encoding lacks (`PYTHONIOENCODING=latin-1`) end a command."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):  # not a text file, or closed
            if stream.errors in ("strict", "surrogateescape"):  # the second with LC_ALL=C
                stream.reconfigure(errors="backslashreplace")


def launched(environ: MutableMapping[str, str] = os.environ) -> bool:
    """Whether this process was started by the launcher that one of ours became."""
    launcher = environ.get(LAUNCHER)
    if launcher is None:
        return False

    import psutil

    return launcher in {str(ancestor.pid) for ancestor in psutil.Process().parents()}


def ranks_of(environ: MutableMapping[str, str] = os.environ) -> dict[str, str]:
    """What is there of a launcher's variables."""
    return {name: value for name, value in environ.items() if name in RANKS or name.startswith(RANK_PREFIXES)}


def forget_ranks(environ: MutableMapping[str, str] = os.environ) -> dict[str, str]:
    """Take a launcher's variables out, except in a process of our own launcher; gives those that were there."""
    if launched(environ):
        return {}
    left = ranks_of(environ)
    for name in (*left, LAUNCHER):
        environ.pop(name, None)
    return left


def contradictions(left: MutableMapping[str, str], processes: int) -> dict[str, str]:
    """Of a launcher's variables those that speak of another number of processes, or of a place beyond it."""
    sizes = {name: left[name] for name in SIZES if (size := _whole(left.get(name))) is not None and size != processes}
    places = {name: left[name] for name in PLACES if (place := _whole(left.get(name))) is not None and place >= processes}
    return sizes | places


def hides_gpus(environ: MutableMapping[str, str] = os.environ) -> str:
    """`CUDA_VISIBLE_DEVICES=…` as it stands where it hides every GPU; empty where it does not."""
    value = environ.get(GPUS)
    hidden = value is not None and value.strip().partition(",")[0] in ("", "-1", "NoDevFiles")
    return f"{GPUS}={value!r}" if hidden else ""


def listed(variables: MutableMapping[str, str]) -> str:
    """Variables and their values for a message, few and short."""
    shown = [f"{name}={value[:40]}" for name, value in sorted(variables.items())[:6]]
    return ", ".join([*shown, *(["…"] if len(variables) > 6 else [])])


def unprintable(arguments: list[str]) -> list[str]:
    """The arguments of a command that are not UTF-8."""
    return [argument for argument in arguments if any("\ud800" <= letter <= "\udfff" for letter in argument)]


def _forget_odd_threads(environ: MutableMapping[str, str]) -> None:
    odd = {name: environ.pop(name) for name in THREADS if name in environ and not COUNT.fullmatch(environ[name])}
    if odd := {name: value for name, value in odd.items() if value}:
        _say(f"{listed(odd)} is no number of threads; ignored")


def _name_the_user(environ: MutableMapping[str, str]) -> None:
    """A container's user without an entry in passwd gets a name and, where HOME is not set, a home in this folder."""
    try:
        import pwd

        pwd.getpwuid(os.getuid())
        return
    except ImportError:  # not a Unix
        return
    except KeyError:
        pass
    if not any(environ.get(name) for name in NAMES):
        environ["LOGNAME"] = environ["USER"] = f"uid{os.getuid()}"
    if not environ.get("HOME"):
        environ["HOME"] = str(Path.cwd() / ".saferflow" / "home")


def _whole(value: str | None) -> int | None:
    return int(value) if value is not None and re.fullmatch(r"\s*\d{1,6}\s*", value) else None


def _say(words: str) -> None:
    print(f"note: {words}", file=sys.stderr, flush=True)
