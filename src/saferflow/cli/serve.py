"""`saferflow serve`: a registered version as the whole system, or bare behind transformers' own server or vLLM's."""

import ipaddress
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from saferflow.cli.export import export
from saferflow.cli.served_folders import ServedFolders
from saferflow.errors import PipelineError
from saferflow.params import Params
from saferflow.release import data_versions, registry
from saferflow.tracking import environment
from saferflow.tracking.pointer import Pointer
from saferflow.training.plain_template import write_plain_template
from saferflow.training.vllm_program import program

if TYPE_CHECKING:
    from saferflow.data.profile import Profile
    from saferflow.serving.policy import Identity
    from saferflow.serving.record import Record
    from saferflow.serving.tracing import Tracer

TRANSFORMERS, VLLM = "transformers", "vllm"
KEY = "VLLM_API_KEY"
"""Environment variable that vLLM takes its key from."""
SYSTEM_KEY = "SAFERFLOW_SERVE_KEY"
"""Environment variable that the system takes its key from."""
GUARD_KEY = "SAFERFLOW_GUARD_KEY"
"""Environment variable with the key that a guarded model's server wants."""


def serve_system(
    console: Console,
    root: Path,
    params: Params,
    asked: str,
    *,
    host: str,
    port: int,
    backend: str = TRANSFORMERS,
    arguments: Sequence[str] = (),
    guard: tuple[str, str] | None = None,
    follow: bool = True,
) -> None:
    """Put planner, policy and check behind one server, until a signal ends it.

    Args:
        backend: what draws the completions.
        arguments: further options of `vllm serve`, where it is vLLM.
        guard: address and name of a model that answers where the gate lets it.
        follow: serve another version as soon as the alias points to it; a number is not followed.

    Raises:
        PipelineError: no such version, its files are not what was registered, or the server would stand open to others.
    """
    key = os.environ.get(SYSTEM_KEY)
    if not key and not _is_loopback(host):
        raise PipelineError(
            f"on {host} others reach the server: set {SYSTEM_KEY} to the key that they must show, or use 127.0.0.1"
        )
    version = registry.named(params.gate.registered_model, asked)
    alias = None if registry.number_in(asked) else asked

    import uvicorn

    from saferflow.serving.app import build_app
    from saferflow.serving.following import Follower
    from saferflow.serving.guard import GuardedModel
    from saferflow.serving.policy import LoadedPolicy, Policy, warm
    from saferflow.serving.system import System
    from saferflow.serving.vllm_policy import VLLMPolicy

    folders = ServedFolders(home_of(root))
    if backend == VLLM:
        program()

    def load(version: registry.Version, to: Console) -> Policy:
        policy: Policy
        with folders.serving(folder := folder_of(root, version)):
            write_version(to, root, params, version)
            identity = _identity(version, alias)
            if backend == VLLM:
                log = folder.with_name(f"{folder.name}.vllm.log")
                to.print(Text(f"vLLM loads {identity.name}; its log: {log}"))
                policy = VLLMPolicy(folder, identity, params.policy, log, arguments)
            else:
                policy = LoadedPolicy(folder, identity, params.policy)
            warm(policy)
        return policy

    policy = load(version, console)
    seconds = params.serve.guarded_seconds
    guarded = GuardedModel(*guard, os.environ.get(GUARD_KEY), seconds) if guard else None
    record = record_of(root, params, version)
    system = System(policy, params, guarded, record, tracer_of(params))

    def successor(number: int) -> Policy:
        following = registry.by_number(version.model, number)
        policy = load(following, Console(quiet=True))
        record.trained = trained_rows(following)
        return policy

    if alias and follow:
        Follower(system, alias, pointed=Pointer(version.model, alias).number, load=successor).start()
    name = policy.identity.name
    who = f"{name}, and {guarded.name} behind its gate," if guarded else name
    console.print(Text(f"{who} at http://{host}:{port}/v1; Ctrl-C ends it"))
    uvicorn.run(build_app(system, key), host=host, port=port, log_level="warning")


def tracer_of(params: Params) -> "Tracer":
    """What writes the traces of requests; nothing where `serve.traces` is null."""
    from saferflow.serving.tracing import Tracer

    if params.serve.traces is None:
        return Tracer()
    from saferflow.tracking.traces import log_request

    os.environ.update(environment.HURRIED)  # a trace is not worth minutes of waiting
    return Tracer(params.serve.traces, log_request)


def record_of(root: Path, params: Params, version: registry.Version) -> "Record":
    """What a server of this version keeps: a store where `serve.store` is set, and the profile of its training rows.

    Raises:
        PipelineError: the store cannot be written.
    """
    from saferflow.serving.record import Record
    from saferflow.serving.store import FILE, Store

    store = Store(root / FILE, params.serve.store) if params.serve.store else None
    return Record(store, params.serve.store, trained_rows(version))


def trained_rows(version: registry.Version) -> "Profile | None":
    """The profile of the rows that a version was trained on; None where nothing holds it any more."""
    from saferflow.serving.drift import trained_profile

    tables = data_versions.profile_behind(version)
    return trained_profile(tables) if tables else None


def serve_bare(
    console: Console,
    root: Path,
    params: Params,
    asked: str,
    *,
    backend: str,
    host: str,
    port: int,
    arguments: list[str],
) -> None:
    """Become the server of a version without planner and check.

    Args:
        arguments: handed on to the server as they are.

    Raises:
        PipelineError: no such version, its files are not what was registered, the server is not installed, or it would stand
            open to others without a key.
    """
    refuse_open_doors(backend, host)
    if backend == VLLM:
        program()
    version = registry.named(params.gate.registered_model, asked)
    home, folder = home_of(root), folder_of(root, version)
    name, folders = folder.name, ServedFolders(home)
    with folders.serving(folder, inherited=True):  # by the program that takes this process's place
        write_version(console, root, params, version)
    (home / "hub").mkdir(exist_ok=True)
    if backend == VLLM and "--chat-template" not in arguments:
        template = home / f"{name}.jinja"
        write_plain_template(home / name, template)
        arguments = ["--chat-template", str(template), "--chat-template-content-format", "openai", *arguments]
    command = _command(backend, name, host, port, arguments)
    console.print(
        Text(f"model {name} at http://{host}:{port}/v1 as soon as the server says that it is up; Ctrl-C ends it")
    )
    os.environ["HF_HUB_CACHE"] = str(home / "hub")  # transformers' server lists it, and fails where there is none
    os.chdir(home)  # so that the model is called by its name and not by this machine's path
    sys.stdout.flush()
    os.execvp(command[0], command)  # noqa: S606 the server takes this process's place, so that signals reach it


def home_of(root: Path) -> Path:
    """Where the files of served versions lie."""
    return (root / environment.HOME / "served").absolute()


def folder_of(root: Path, version: registry.Version) -> Path:
    """The folder that a version is served from."""
    return home_of(root) / f"{version.model}-v{version.number}"


def write_version(console: Console, root: Path, params: Params, version: registry.Version) -> Path:
    """The folder that a version is served from, each byte and its signature held against the registry.

    Raises:
        PipelineError: its files are not what was registered, or not signed where they must be.
    """
    folder = folder_of(root, version)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    export(console, root, params, str(version.number), folder)
    return folder


def refuse_open_doors(backend: str, host: str) -> None:
    """A server that others reach must ask for a key.

    Raises:
        PipelineError: this one would not.
    """
    if _is_loopback(host):
        return
    if backend == TRANSFORMERS:
        raise PipelineError(
            f"transformers' server asks nobody for a key, so it does not go on {host}; use 127.0.0.1 behind a proxy that does, "
            f"or --backend vllm with {KEY} set"
        )
    if not os.environ.get(KEY):
        raise PipelineError(
            f"on {host} others reach the server: set {KEY} to the key that they must show, or use 127.0.0.1"
        )


def _identity(version: registry.Version, alias: str | None) -> "Identity":
    """Who a version is to callers; they may name it by the alias that it is served for, even if that moves meanwhile."""
    from saferflow.serving.policy import Identity

    aliases = tuple(sorted({*version.aliases, alias} - {None}))
    return Identity(version.model, version.number, aliases, version.tags[registry.MODEL_DIGEST])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _command(backend: str, name: str, host: str, port: int, arguments: list[str]) -> list[str]:
    where = ["--host", host, "--port", str(port)]
    if backend == VLLM:
        return [program(), "serve", name, "--served-model-name", name, *where, *arguments]
    return [sys.executable, "-m", "saferflow.cli.transformers_server", name, *where, *arguments]
