"""Runs one stage in several processes: by torch's elastic launcher, as `accelerate launch` does, with DeepSpeed by parameter.

A stage's module calls `spread` first. With one process and no DeepSpeed it goes on; else the process becomes the launcher,
which starts the same module once a process. Source: ours.
"""

import atexit
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from saferflow import shell
from saferflow.errors import TrainingError
from saferflow.params import LaunchParams, PolicyParams

PARENT_DEATH_SIGNAL = 1
"""`PR_SET_PDEATHSIG` of prctl(2)."""
INSIDE = "TORCHELASTIC_RUN_ID"
"""Set by torch's launcher in the processes that it starts; a shell may have inherited it."""
AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"
"""`True` where torch's launcher keeps a store of names and values for the processes that it starts."""
PATIENCE = timedelta(hours=6)
"""The most time for the main process to read checkpoints of hundreds of gigabytes; if it fails, the launcher ends the others."""
LAUNCHERS = ("torch.distributed.run", "torch/distributed/run", "torchrun", "accelerate", "deepspeed")
"""Texts in the command of a launcher process."""


def spread(module: str, launch: LaunchParams, policy: PolicyParams) -> None:
    """Become the launcher of `module` if the params want several processes; return in a launched process, or if one is enough.

    Raises:
        TrainingError: DeepSpeed is not installed, there are fewer GPUs than processes, or the environment contradicts the params.
    """
    if shell.launched() or _launched_by_another(launch):
        _end_with_the_launcher()
        if launch.strategy != "ddp":
            import deepspeed

            _allow_its_checkpoints()
            deepspeed.init_distributed()  # GRPO loads its reference model before the trainer would do so
        return
    left = shell.forget_ranks()
    if policy.device == "auto" and shell.hides_gpus():
        print(f"note: {shell.hides_gpus()} hides this node's GPUs, if it has any", file=sys.stderr, flush=True)
    if world(launch) == 1 and launch.strategy == "ddp":
        if wrong := shell.contradictions(left, 1):
            raise TrainingError(_contradiction(wrong, launch))
        return
    if launch.strategy != "ddp" and find_spec("deepspeed") is None:
        raise TrainingError(
            f"launch.strategy is {launch.strategy}, which needs DeepSpeed: pip install 'saferflow[gpu]', "
            "or set launch.strategy to ddp"
        )
    import torch

    gpus = torch.cuda.device_count()
    hidden = f" to be seen, for {shell.hides_gpus()} hides them (unset it)" if shell.hides_gpus() else ""
    if policy.device == "cuda" and not gpus:
        raise TrainingError(
            f"policy.device is cuda and this node has no GPU{hidden}; run on one that has, or set policy.device to auto and "
            "launch.processes to 1"
        )
    if 0 < gpus < launch.processes:
        raise TrainingError(
            f"launch.processes is {launch.processes} and this node has {gpus} GPUs; set launch.processes to {gpus}, or run on "
            "a node that has as many"
        )
    meet = ["--standalone"] if launch.nodes == 1 else ["--rdzv-backend", "c10d", "--rdzv-endpoint", launch.rendezvous]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", str(launch.nodes),
        "--nproc-per-node", str(launch.processes), *meet, "-m", module,
    ]  # fmt: skip
    if launch.strategy != "ddp":
        os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"  # DeepSpeed itself would unpickle whatever a checkpoint holds
        os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(build_folder()))
        free_dead_locks(Path(os.environ["TORCH_EXTENSIONS_DIR"]))
    if not gpus:
        os.environ["DS_ACCELERATOR"] = "cpu"
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // launch.processes)))
    os.environ[shell.LAUNCHER] = str(os.getpid())
    sys.stdout.flush()
    os.execv(sys.executable, command)  # noqa: S606 the launcher takes this process's place, so that signals reach it


def _launched_by_another(launch: LaunchParams) -> bool:
    """Whether the user's own torchrun started this process, in the number that the params want.

    Raises:
        TrainingError: it started a different number.
    """
    if not _under_a_launcher():
        return False
    if wrong := shell.contradictions(shell.ranks_of(), world(launch)):
        raise TrainingError(_contradiction(wrong, launch))
    return True


def _under_a_launcher() -> bool:
    if INSIDE in os.environ:
        with suppress(psutil.Error):
            command = " ".join(psutil.Process(os.getppid()).cmdline())
            return any(name in command for name in LAUNCHERS)
    return False


def _contradiction(wrong: dict[str, str], launch: LaunchParams) -> str:
    return (
        f"the environment has {shell.listed(wrong)}, and the params have launch.processes {launch.processes} and launch.nodes "
        f"{launch.nodes}: {world(launch)} in all. A stage starts its processes by itself: call it once, without a launcher, and "
        f"set launch.processes; or, where they are left over: unset {' '.join(wrong)}"
    )


def end_together() -> None:
    """End the processes of a stage together and at once; with several processes this does not return.

    Call it after a stage has succeeded and written everything; after an error the launcher ends the others. A process that
    ends earlier may fail those that still communicate with it. The threads of this communication may also call the
    interpreter while it shuts down, which aborts the process, so the interpreter does not shut down.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        atexit._run_exitfuncs()  # the last points of the curves
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def build_folder() -> Path:
    """The folder where DeepSpeed compiles its operators: one per machine, since different machines may share a home."""
    from torch.utils.cpp_extension import get_default_build_root

    return Path(get_default_build_root()) / socket.gethostname()


def free_dead_locks(builds: Path) -> None:
    """Remove the locks under `builds` that no process holds open; torch waits for ever for a lock that a kill left behind."""
    locks = {str(lock.resolve()) for lock in builds.rglob("lock")}
    if not locks:
        return
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            locks -= {held.path for held in process.open_files()}
    for lock in locks:
        Path(lock).unlink(missing_ok=True)


def _end_with_the_launcher() -> None:
    """End this process when its launcher dies; it has its own session, so a kill of the launcher alone would not end it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _allow_its_checkpoints() -> None:
    """Allow torch to load the types that DeepSpeed's checkpoints hold beside tensors; it refuses other types."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address
    from torch.serialization import add_safe_globals

    add_safe_globals([LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address])


def world(launch: LaunchParams) -> int:
    """The number of processes on all nodes."""
    return launch.processes * launch.nodes


def is_main_process() -> bool:
    """Whether this process has rank 0, which writes for all; true without a launcher."""
    return int(os.environ.get("RANK", "0")) == 0


def from_leader(name: str, compute: Callable[[], str]) -> str:
    """A text that the main process computes and all processes of the stage get; a single process computes it itself.

    They exchange it in the store of torch's launcher, which exists before any process group and without a device.

    Args:
        name: the text's name, the same in all processes; a name has one text for as long as they live.
    """
    launched = shell.launched() or _under_a_launcher()
    if not launched or int(os.environ.get("WORLD_SIZE", "1")) == 1 or os.environ.get(AGENT_STORE) != "True":
        return compute()

    from torch.distributed.rendezvous import rendezvous

    store, rank, _ = next(rendezvous("env://", timeout=PATIENCE))
    key = f"saferflow {name}"
    if rank == 0:
        store.set(key, compute())
    return store.get(key).decode()


def shared_weights(launch: LaunchParams, policy: PolicyParams) -> object | None:
    """An object that, while it lives, has transformers load a process's part of each weight (ZeRO-3); None for whole models.

    The trainer's own configuration comes after the model; what is `auto` there does not matter here.
    """
    import torch

    config = deepspeed_config(launch, policy)
    if not launch.strategy.startswith("zero3") or not torch.distributed.is_initialized():
        return None
    from transformers.integrations import HfDeepSpeedConfig

    known = {name: value for name, value in config.items() if value != "auto"}
    return HfDeepSpeedConfig(known | {"train_micro_batch_size_per_gpu": 1})


def deepspeed_config(launch: LaunchParams, policy: PolicyParams) -> dict[str, Any] | None:
    """DeepSpeed's configuration, None for DDP; transformers fills in `auto` from the trainer's arguments.

    Gradients are summed, and reduced over the processes, in float32 as in the released code [K].
    """
    if launch.strategy == "ddp":
        return None
    stage, _, offload = launch.strategy.removeprefix("zero").partition("_")
    zero: dict[str, Any] = {"stage": int(stage), "overlap_comm": True, "contiguous_gradients": True}
    if offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if stage == "3":
        zero["stage3_gather_16bit_weights_on_model_save"] = True
        if offload:
            zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    return {
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": policy.dtype == "bfloat16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
    }
