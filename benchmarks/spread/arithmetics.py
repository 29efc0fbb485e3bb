"""Arithmetics: settings of torch's libraries under which the same program rounds otherwise, as it would on another machine.

torch's own kernels heed ATEN_CPU_CAPABILITY, oneDNN's ONEDNN_MAX_CPU_ISA, and MKL's (the BLAS of torch's builds for x86)
MKL_ENABLE_INSTRUCTIONS on Intel's processors only, and MKL_CBWR=COMPATIBLE on all. Whether an arithmetic is another one than
`native` on this machine is measured and never assumed: `measured` runs `digits.py` under it. Seen with torch 2.13.0+cpu
(MKL 2024.2, oneDNN 3.12) on two cores of an AMD EPYC with AVX2, as to the last digits of results from the same inputs:

    generic      attention, softmax, layer norm, GELU, SiLU, convolution and gradients differ from native; sums, exponentials and
                 matrix products do not, for MKL ignores MKL_ENABLE_INSTRUCTIONS on a processor of AMD
    compatible   matrix products, and with them attention and gradients, differ; they take 2.5 times as long
    one-thread   sums of many numbers differ
    avx2         nothing differs, for native is avx2 there; so it is refused
    avx512       the processor has no such instructions; so it is refused

Source: ours.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from saferflow.errors import PipelineError

NATIVE = "native"
SETTINGS: dict[str, dict[str, str]] = {
    NATIVE: {},
    "generic": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    },
    "compatible": {"MKL_CBWR": "COMPATIBLE"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "avx512": {
        "ATEN_CPU_CAPABILITY": "avx512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    },
    "one-thread": {"OMP_NUM_THREADS": "1"},
}
"""Name -> the variables that are set for the stages."""
NEEDS = {"avx2": "AVX2", "avx512": "AVX512"}
"""The instructions that an arithmetic wants. torch obeys without looking whether the processor has them, and dies."""
CAPABILITIES = ("DEFAULT", "AVX2", "AVX512")
"""As torch calls them, each including those before it."""
FOREIGN = ("ATEN_", "ONEDNN_", "DNNL_", "MKL_", "OMP_", "KMP_", "GOMP_", "OPENBLAS_", "VECLIB_", "MLFLOW_", "PREFECT_")
"""Beginnings of the variables that the stages do not get from the shell: they would change every arithmetic, or the tracker."""
PROBE = Path(__file__).with_name("digits.py")


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """An arithmetic as it is on this machine."""

    name: str
    settings: Mapping[str, str]
    capability: str
    """The vector instructions that torch says it uses."""
    threads: int
    cores: int
    gpus: int
    torch: str
    digits: Mapping[str, str]
    """Operation -> digest of its result."""

    @property
    def digest(self) -> str:
        """The same on two machines exactly where all operations gave the same digits."""
        return hashlib.sha256(json.dumps(self.digits, sort_keys=True).encode()).hexdigest()[:12]

    def differs_in(self, other: "Arithmetic") -> list[str]:
        """The operations whose last digits are not the other arithmetic's."""
        return [name for name, digest in self.digits.items() if digest != other.digits[name]]


def settings_of(name: str, threads: int | None = None) -> dict[str, str]:
    """The variables of an arithmetic.

    Args:
        threads: of every arithmetic that does not choose its own number; None leaves it to torch.

    Raises:
        PipelineError: there is no arithmetic of this name.
    """
    if name not in SETTINGS:
        raise PipelineError(f"no arithmetic {name}; there are {', '.join(SETTINGS)}")
    return ({"OMP_NUM_THREADS": str(threads)} if threads else {}) | SETTINGS[name]


def environment_of(settings: Mapping[str, str], shell: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process under an arithmetic: the shell's, without what is foreign to it, and the settings."""
    return {name: value for name, value in shell.items() if not name.startswith(FOREIGN)} | dict(settings)


def measured(names: Sequence[str], shell: Mapping[str, str], threads: int | None = None) -> dict[str, Arithmetic]:
    """The arithmetics of these names on this machine, each other than all before it.

    Raises:
        PipelineError: there is no such arithmetic, this machine cannot do it, or it gives the same digits as another one.
    """
    wanted = {name: settings_of(name, threads) for name in names}
    native = _probed(NATIVE, settings_of(NATIVE, threads), shell)
    refused = {name: reason for name in wanted if (reason := unable(name, native))}
    arithmetics: dict[str, Arithmetic] = {}
    for name, settings in wanted.items():
        if name not in refused:
            arithmetics[name] = native if name == NATIVE else _probed(name, settings, shell)
            refused |= same_as_another(arithmetics[name], [native, *arithmetics.values()])
    if refused:
        raise PipelineError("; ".join(f"{name}: {reason}" for name, reason in refused.items()))
    return arithmetics


def unable(name: str, native: Arithmetic) -> str:
    """Why this machine cannot do an arithmetic; empty where it can."""
    if name != NATIVE and native.gpus:
        return "the stages would train on this machine's GPU, which heeds none of its settings; hide it: CUDA_VISIBLE_DEVICES="
    need = NEEDS.get(name, CAPABILITIES[0])
    has = CAPABILITIES.index(native.capability) if native.capability in CAPABILITIES else 0
    if CAPABILITIES.index(need) > has:
        return f"this processor has no {need}; torch uses {native.capability} here"
    return ""


def same_as_another(arithmetic: Arithmetic, others: Sequence[Arithmetic]) -> dict[str, str]:
    """The arithmetic's name -> the reason, where its digits are those of another one; else nothing."""
    twins = [other.name for other in others if other.name != arithmetic.name and other.digest == arithmetic.digest]
    if not twins:
        return {}
    return {arithmetic.name: f"on this machine it gives the same digits as {twins[0]}; leave it out"}


def _probed(name: str, settings: Mapping[str, str], shell: Mapping[str, str]) -> Arithmetic:
    done = subprocess.run(
        [sys.executable, str(PROBE)],
        env=environment_of(settings, shell), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise PipelineError(f"{name}: {PROBE.name} ended with {done.returncode} under it: {done.stderr.strip()[-500:]}")
    return Arithmetic(name, settings, **json.loads(done.stdout))
