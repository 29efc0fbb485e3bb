"""`saferflow export`: a version as a folder that loads without saferflow."""

import json
import shutil
from pathlib import Path

from rich.console import Console
from rich.text import Text

from saferflow.errors import PipelineError
from saferflow.params import Params
from saferflow.protocol.grammar import lark_without_plan
from saferflow.release import registry, signing
from saferflow.release.registration import CARD
from saferflow.release.weights import weights_of
from saferflow.tracking import runs

ORIGIN = "saferflow.json"
GRAMMAR = "protocol.lark"


def export(console: Console, root: Path, params: Params, reference: str, to: Path) -> None:
    """Copy a version's files to `to`, and beside them its model card as README.md, its lineage, its signature and the protocol's
    grammar, which vLLM takes as a request's `structured_outputs`.

    Args:
        reference: `champion`, `candidate`, `previous`, or a version as `3` or `v3`.

    Raises:
        PipelineError: there is no such version, its files are not what was registered, a signature is asked for and does not
            hold, or `to` is not empty.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise PipelineError(f"{to} is there and not empty; name a folder that is new or empty")
    version = registry.named(params.gate.registered_model, reference)
    partial = to.absolute().with_name(f".{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with weights_of(version) as held:
            if params.gate.public_key:
                signing.verify_version(version, held, root / params.gate.public_key)
            shutil.copytree(held, partial)
        signing.signature_of(version, partial)
        _describe(version, partial)
        if to.exists():
            to.rmdir()
        partial.rename(to)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    size = sum(path.stat().st_size for path in to.rglob("*") if path.is_file())
    console.print(
        Text(f"{version.model} version {version.number} is in {to}, {size / 1e6:,.1f} MB, every file as registered")
    )
    console.print(Text(f"load it with transformers: Qwen2_5_VLForConditionalGeneration.from_pretrained({str(to)!r})"))


def sign(console: Console, params: Params, reference: str, key: Path) -> None:
    """Sign a version with a private key, and store the signature in its run."""
    version = registry.named(params.gate.registered_model, reference)
    signing.sign_version(version, key)
    console.print(Text(f"{version.model} version {version.number} is signed with {key}"))


def verify(console: Console, folder: Path, key: Path) -> None:
    """Verify the signature of an exported folder."""
    signing.verify(folder, folder / signing.SIGNATURE, key, besides=(ORIGIN, GRAMMAR, "README.md"))
    console.print(Text(f"{folder}: every file is what the owner of {key} signed"))


def _describe(version: registry.Version, folder: Path) -> None:
    run = version.tags.get(registry.EVALUATION_RUN)
    if run:
        (folder / "README.md").write_bytes(runs.fetch_artifact(run, CARD, folder).read_bytes())
        (folder / CARD).unlink()
    (folder / GRAMMAR).write_text(lark_without_plan(), encoding="utf-8")
    origin = {"model": version.model, "version": version.number, "source": version.source, "tags": dict(version.tags)}
    (folder / ORIGIN).write_text(json.dumps(origin, indent=2, ensure_ascii=False), encoding="utf-8")
