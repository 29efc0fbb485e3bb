"""The safety-aware rollout in two real processes that share one engine, as they share a vLLM server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TWO = """
import json, os, sys
from pathlib import Path
import torch
from accelerate.utils import broadcast_object_list, gather_object
from saferflow.data.rows import PromptRow
from saferflow.data.scenes.corpus import general_rows
from saferflow.params import load_params
from saferflow.rewards.judged import said
from saferflow.training.arguments import Job
from saferflow.training.grpo import grpo_trainer
from saferflow.training.policy import load_model, load_processor
from saferflow.training.reflection import Reflection, Safety

RANK, POLICY, OUT = int(os.environ["RANK"]), Path(sys.argv[1]), Path(sys.argv[2])
UNSAFE = json.loads(sys.argv[3])[RANK]  # of each round, how many of this process's completions
micro = load_params(Path(sys.argv[4]))
policy = micro.policy.model_copy(update={"max_completion_tokens": 6})
launch = micro.launch.model_copy(update={"processes": 2})
recipe = {"batch_size": 8, "micro_batch_size": 4, "rollout_batch": 8, "group": 4, "updates": 2, "rewards": {"none": 1.0}}
rows = [PromptRow(row.id, "", "safety", None, "", row.question, "", "") for row in general_rows(4, 1, "train")]
rounds = iter(UNSAFE)

def safety(names, texts):
    unsafe = next(rounds)
    return [Safety(1.0, 0.1 if number < unsafe else 0.9) for number in range(len(texts))]

def reward(columns, text):
    return float(text == "corrected " + str(RANK))

trainer = grpo_trainer(
    load_model(POLICY, policy), load_processor(POLICY, policy), rows,
    {"none": lambda completions, **_: [float(len(said(text))) for text in completions]},
    micro.grpo.model_copy(update=recipe), Job(policy, launch, 1, OUT / "out", OUT / "steps", lambda *_: None),
)
answers = [trainer.processing_class.tokenizer("corrected " + str(rank))["input_ids"] for rank in range(2)]

def server(prompt_ids, images, fields, generations, *_):
    # as TRL's server mode: the leader sends every process's prompts at once, and each process cuts out its own
    everybody = gather_object([(RANK, ids) for ids in prompt_ids])
    replies = [[answers[rank] for rank, _ in everybody]] if RANK == 0 else [None]
    broadcast_object_list(replies)
    mine = replies[0][RANK * len(prompt_ids) : (RANK + 1) * len(prompt_ids)]
    return mine, [[-2.0] * len(ids) for ids in mine]

trainer.reflection = Reflection(0.5, safety, reward)
trainer.model.train()
trainer.current_gradient_accumulation_steps = 1
asked = trainer._say

def say(conversations):
    trainer._generate_single_turn = server
    try:
        return asked(conversations)
    finally:
        del trainer._generate_single_turn

trainer._say = say
found = []
for number, _ in enumerate(UNSAFE):
    torch.manual_seed(number)
    made = trainer._generate_and_score_completions([dict(trainer.train_dataset[RANK]) for _ in range(4)])
    mask = made["completion_mask"].bool()
    ids = torch.cat([made["prompt_ids"], made["completion_ids"]], 1)
    seen = torch.cat([made["prompt_mask"], made["completion_mask"]], 1)
    with torch.no_grad():
        anew, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, seen, mask.shape[1], batch_size=4)
    found.append({
        "corrected": sorted(trainer.corrected),
        "texts": trainer.processing_class.batch_decode(
            [row[kept] for row, kept in zip(made["completion_ids"], mask, strict=True)], skip_special_tokens=True
        ),
        "off": ((made["old_per_token_logps"] - anew) * mask).abs().max().item(),
    })
(OUT / f"found-{RANK}.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    """Two rounds: one process has three unsafe completions and the other none; then two and three."""
    from saferflow.data.scenes.corpus import general_rows
    from saferflow.params import load_params
    from saferflow.protocol.reflection import ANEW, MISSED
    from saferflow.training.embedded import build_model, build_processor, train_tokenizer
    from saferflow.training.policy import save_policy

    out, profile = tmp_path_factory.mktemp("two"), ROOT / "profiles" / "micro.yaml"
    micro = load_params(profile)
    texts = [text for row in general_rows(4, 1, "train") for text in (row.question, row.answer)]
    tokenizer = train_tokenizer([*texts, MISSED, ANEW, "corrected 0", "corrected 1"], micro.base.vocab_size)
    model = build_model(micro.base, tokenizer, seed=1)
    save_policy(out / "policy", model, build_processor(tokenizer, micro.policy))
    (out / "two.py").write_text(TWO, encoding="utf-8")
    subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "two.py",
            str(out / "policy"), str(out), json.dumps([[3, 2], [0, 3]]), str(profile),
        ],
        cwd=out, env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}, check=True, timeout=300,
    )  # fmt: skip
    return [json.loads((out / f"found-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
def test_each_process_gets_the_corrections_of_its_own_completions_however_many_the_other_has(rounds):
    """Of a group's unsafe completions the most unsafe stays: of 3 unsafe ones 2 are corrected, of 2 one, of none none."""
    for rank, corrected in enumerate(([[1, 2], [1]], [[], [1, 2]])):
        assert [each["corrected"] for each in rounds[rank]] == corrected
        for each in rounds[rank]:
            texts = {each["texts"][number] for number in each["corrected"]}
            assert texts <= {f"corrected {rank}"}


@pytest.mark.slow
def test_the_ratio_of_a_correction_is_one_before_the_first_update(rounds):
    """The old log-probabilities are those of the tokens that took the place, under the original prompt."""
    assert max(each["off"] for process in rounds for each in process) < 1e-5
