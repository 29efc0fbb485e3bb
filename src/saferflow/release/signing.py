"""Signed versions: OpenSSF model signing over the files of a version, by an elliptic-curve key.

The signature lists every file with its hash; it is kept as an artifact of the run that a tag of the version names. Whoever has
the public key can check a version in the registry, or a folder that was exported, without asking anybody. Source: OpenSSF's
model-signing specification 1.0.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from saferflow.errors import PipelineError
from saferflow.release import registry
from saferflow.release.registry import Version
from saferflow.release.weights import weights_of
from saferflow.tracking import lineage, runs

SIGNATURE = "model.sig"
SIGNED_IN = lineage.PREFIX + "signature_run"
"""Tag with the run that holds the signature."""
KEY, PASSWORD = "SAFERFLOW_SIGNING_KEY", "SAFERFLOW_SIGNING_PASSWORD"
"""Environment variables with the private key's file, and with its password if it has one."""
INSTALL = "signatures want model-signing: pip install 'saferflow[sign]'"


def sign(folder: Path, signature: Path, key: Path) -> None:
    """Sign every file of a folder; the signature lies outside the folder.

    Raises:
        PipelineError: the key cannot be read, or model-signing is not installed.
    """
    try:
        from model_signing import signing
    except ImportError:
        raise PipelineError(INSTALL) from None
    try:
        signing.Config().use_elliptic_key_signer(private_key=key, password=os.environ.get(PASSWORD)).sign(
            folder, signature
        )
    except (OSError, TypeError, ValueError) as error:
        raise PipelineError(
            f"{key}: cannot sign with it ({str(error)[:200]}); it is to be a private elliptic-curve key as PEM, as "
            f"`openssl ecparam -genkey -name prime256v1 -noout` makes one, and {PASSWORD} its password if it has one"
        ) from None


def verify(folder: Path, signature: Path, public_key: Path, *, besides: Sequence[str] = ()) -> None:
    """Verify the signature of a folder.

    Args:
        besides: files of the folder that were not signed.

    Raises:
        PipelineError: a file was changed, added or lost; the signature is another key's; or it cannot be read.
    """
    try:
        from model_signing import hashing, verifying
    except ImportError:
        raise PipelineError(INSTALL) from None
    if not signature.is_file():
        raise PipelineError(f"{folder} has no signature: {signature} is not there; sign the version: saferflow sign")
    unsigned = hashing.Config().set_ignored_paths(paths=[signature, *(folder / name for name in besides)])
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (OSError, TypeError, ValueError) as error:
        raise PipelineError(f"{public_key}: no public key as PEM ({str(error)[:200]})") from None
    try:
        config.set_hashing_config(unsigned).verify(folder, signature)
    except Exception as error:  # the library raises its own, cryptography's and json's
        message = str(error)[:300] or type(error).__name__
        raise PipelineError(
            f"{folder} is not what the owner of {public_key} signed: {message}; do not serve it"
        ) from None


def sign_version(version: Version, key: Path) -> None:
    """Sign a version's files, and store the signature in its run.

    Raises:
        PipelineError: as `sign`; or the files are not what was registered.
    """
    run = version.tags.get(registry.EVALUATION_RUN) or version.run
    with TemporaryDirectory() as folder, weights_of(version) as held:
        signature = Path(folder) / SIGNATURE
        sign(held, signature, key)
        runs.log_artifact(run, signature)
    registry.retag(version, {SIGNED_IN: run})


def signature_of(version: Version, to: Path) -> Path | None:
    """Copy a version's signature into the folder `to`; None if the version has none."""
    run = version.tags.get(SIGNED_IN)
    return runs.fetch_artifact(run, SIGNATURE, to) if run else None


def verify_version(version: Version, held: Path, public_key: Path) -> None:
    """Verify a version's files, in the folder `held`, against its signature.

    Raises:
        PipelineError: as `verify`, or it has none.
    """
    with TemporaryDirectory() as folder:
        signature = signature_of(version, Path(folder))
        if signature is None:
            raise PipelineError(
                f"{version.model} version {version.number} is not signed; sign it: saferflow sign v{version.number} --key FILE"
            )
        verify(held, signature, public_key)
