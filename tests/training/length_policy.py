"""A small untrained policy, a few questions for it, and a reward of its completions' length."""

from pathlib import Path

from saferflow.data.rows import PromptRow
from saferflow.data.scenes.corpus import general_rows
from saferflow.params import load_params
from saferflow.training.embedded import build_model, build_processor, train_tokenizer
from saferflow.training.policy import load_model, save_policy

MICRO = load_params(Path(__file__).parents[2] / "profiles" / "micro.yaml")


def parts_in(folder):
    """(model, processor, rows), by way of a policy saved to `folder`."""
    rows = list(general_rows(4, 1, "train"))
    tokenizer = train_tokenizer([text for row in rows for text in (row.question, row.answer)], MICRO.base.vocab_size)
    prompts = [PromptRow(row.id, "", "safety", None, "", row.question, "", "") for row in rows]
    processor = build_processor(tokenizer, MICRO.policy)
    save_policy(folder, build_model(MICRO.base, tokenizer, seed=1), processor)
    return load_model(folder, MICRO.policy), processor, prompts


def length(completions, **columns):
    return [float(len(completion[0]["content"])) for completion in completions]
