"""Every trainer takes tables in which some rows have an image and others none, whatever falls into one batch."""

import math
from pathlib import Path

import pytest

from saferflow.data.rows import DPORow, PromptRow, SFTRow
from saferflow.data.scenes.corpus import general_rows
from saferflow.params import load_params
from saferflow.training.arguments import Job
from saferflow.training.embedded import build_model, build_processor, train_tokenizer
from saferflow.training.policy import load_model, save_policy

MICRO = load_params(Path(__file__).parents[2] / "profiles" / "micro.yaml")
POLICY = MICRO.policy.model_copy(update={"max_completion_tokens": 4})
ROWS = list(general_rows(6, 1, "train"))
IMAGES = [row.image if number % 2 else None for number, row in enumerate(ROWS)]
SMALL = {"batch_size": 4, "micro_batch_size": 1}
"""One row a micro batch: some hold an image and some do not, and TRL cuts all of them out of one larger batch."""


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    tokenizer = train_tokenizer([text for row in ROWS for text in (row.question, row.answer)], MICRO.base.vocab_size)
    processor = build_processor(tokenizer, POLICY)
    save_policy(folder, build_model(MICRO.base, tokenizer, seed=1), processor)
    return lambda: load_model(folder, POLICY), processor


def sft(model, processor, out):
    from saferflow.training.sft import train_sft

    rows = [SFTRow(row.id, "", "safety", image, "", row.question, row.answer, "", "") for row, image in pairs()]
    params = MICRO.sft.model_copy(update=SMALL)
    return train_sft("sft", model(), processor, rows, params, job(out))


def dpo(model, processor, out):
    from saferflow.training.dpo import train_dpo

    rows = [DPORow(row.id, "", image, "", row.question, row.answer, "no", "", "", "") for row, image in pairs()]
    params = MICRO.dpo.model_copy(update=SMALL)
    return train_dpo(model(), model(), processor, rows, params, job(out))


def grpo(model, processor, out):
    from saferflow.training.grpo import train_grpo

    rows = [PromptRow(row.id, "", "safety", image, "", row.question, "", "") for row, image in pairs()]
    params = MICRO.grpo.model_copy(update=SMALL)

    def length(completions, **columns):
        return [len(completion[0]["content"]) % 2 for completion in completions]

    params = params.model_copy(update={"rewards": {"length": 1.0}, "rollout_batch": 4})
    rewards = {"length": length}
    return train_grpo(model(), processor, rows, rewards, params, job(out), out / "rollouts.jsonl")


def job(out):
    return Job(POLICY, MICRO.launch, 1, out, out / "steps", log)


def pairs():
    return zip(ROWS, IMAGES, strict=True)


def log(numbers, step):
    """Nobody watches."""


@pytest.mark.parametrize("train", [sft, dpo, grpo])
def test_rows_with_and_without_an_image_are_trained_on_together(policy, train, tmp_path):
    metrics = train(*policy, tmp_path / "out")
    assert math.isfinite(metrics["train_loss"])
    assert (tmp_path / "out" / "model.safetensors").exists()
