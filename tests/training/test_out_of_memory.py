"""Memory that runs out: an error that names the step, the rows and what to change; by a real limit on a real process."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from saferflow.training.running import _what_to_change, out_of_memory

TRAINED = """
import resource, sys
from pathlib import Path
import torch
from saferflow.data.rows import SFTRow
from saferflow.data.scenes.corpus import general_rows
from saferflow.errors import TrainingError
from saferflow.params import load_params
from saferflow.training.arguments import Job
from saferflow.training.embedded import build_model, build_processor, train_tokenizer
from saferflow.training.sft import train_sft

torch.set_num_threads(1)
micro = load_params(Path("profiles/micro.yaml"))
rows = list(general_rows(8, 1, "train"))
tokenizer = train_tokenizer([text for row in rows for text in (row.question, row.answer)], micro.base.vocab_size)
rows = [SFTRow(r.id, "", "general", None, "", r.question, r.answer * (4000 if n == 5 else 1), "", "") for n, r in enumerate(rows)]
model, out = build_model(micro.base, tokenizer, 1), Path(sys.argv[1])
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 600 * 2**20,) * 2)
params = micro.sft.model_copy(update={"batch_size": 2, "micro_batch_size": 2})
try:
    train_sft("sft", model, build_processor(tokenizer, micro.policy), rows, params,
              Job(micro.policy, micro.launch, 1, out, out / "steps", lambda *_: None))
except TrainingError as error:
    print(error)
    raise SystemExit(3)
"""


def test_the_longest_rows_show_it_in_the_first_step_and_the_error_names_the_ways_out(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TRAINED, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stdout + done.stderr
    assert "sft: out of memory in step 1 of 4, with 2 rows of up to " in done.stdout
    for way in ("sft.micro_batch_size", "policy.max_pixels", "policy.gradient_checkpointing", "zero3"):
        assert way in done.stdout
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
            True,
        ),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_other_errors_stay_what_they_are(error, found):
    assert out_of_memory(error) is found


def test_grpo_does_not_promise_that_the_first_step_takes_the_most():
    """Of packed rows it takes what was drawn: here memory runs out in the sixth."""
    args = SimpleNamespace(activation_checkpointing=True, per_device_train_batch_size=4)
    trainer = SimpleNamespace(args=args, state=SimpleNamespace(global_step=5, max_steps=9), lengths=[7, 90])
    said = _what_to_change("grpo", trainer, MemoryError("no memory"))
    assert "out of memory in step 6 of 9, with 4 rows of up to 90 tokens" in said
    assert "The longest prompts go first; completions may grow, so that a later step takes more." in said
    assert "lower policy.max_completion_tokens" in said
