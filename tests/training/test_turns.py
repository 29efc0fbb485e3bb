"""Rows with turns before the last question: what is trained on is token for token what evaluation asks."""

import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saferflow.data.images import open_rgb
from saferflow.data.rows import DPORow, PromptRow, SFTRow, turns_to_json, whole_question
from saferflow.data.scenes.corpus import general_rows
from saferflow.params import load_params
from saferflow.stages import evaluate
from saferflow.training import engines, generate
from saferflow.training.arguments import Job
from saferflow.training.conversation import chat
from saferflow.training.dpo import train_dpo
from saferflow.training.embedded import build_model, build_processor, train_tokenizer
from saferflow.training.generate import Prompt, complete
from saferflow.training.grpo import grpo_trainer, train_grpo
from saferflow.training.packed import packed
from saferflow.training.policy import load_model, save_policy
from saferflow.training.sft import train_sft

PARAMS = load_params(Path(__file__).parents[2] / "profiles" / "micro.yaml")
POLICY = PARAMS.policy.model_copy(update={"max_completion_tokens": 4})
PICTURES = list(general_rows(4, 1, "train"))
SYSTEM = "Mind the plan."
QUESTIONS = ["What is this?", "And what colour?\nSay it in one word.", "Where is it?", "How do I clean it?"]
ANSWERS = ["A knife.", "Red, I think.", "In the kitchen.", "With soap."]
SMALL = {"batch_size": 4, "micro_batch_size": 2}


def prompt_row(number: int, turns: int, image: bytes | None, system: str = SYSTEM) -> PromptRow:
    """A row whose conversation has so many turns, the last one open."""
    earlier = list(zip(QUESTIONS, ANSWERS, strict=True))[: turns - 1]
    question = whole_question(earlier, QUESTIONS[turns - 1])
    return PromptRow(f"r{number}", "", "safety", image, system, question, "", "", turns_to_json(earlier))


ROWS = [prompt_row(turns, turns, PICTURES[0].image if turns % 2 else None) for turns in (1, 2, 3, 4)]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    tokenizer = train_tokenizer([SYSTEM, *QUESTIONS, *ANSWERS], PARAMS.base.vocab_size)
    processor = build_processor(tokenizer, POLICY)
    save_policy(folder, build_model(PARAMS.base, tokenizer, seed=1), processor)
    return folder, processor


@pytest.fixture
def asked(policy, monkeypatch):
    """The token ids that evaluation asks a policy with, of one prompt."""
    folder, processor = policy
    model = load_model(folder, POLICY)

    def ids(prompt: Prompt) -> list[int]:
        shown = []

        def sample(model, inputs, branches, **kwargs):
            shown.extend(inputs["input_ids"][0].tolist())
            return torch.zeros((1, 1), dtype=torch.long)

        monkeypatch.setattr(generate, "sample", sample)
        list(complete(model, processor, [prompt], batch_size=1, max_tokens=4))
        return shown

    return ids


def job(out: Path) -> Job:
    return Job(POLICY, PARAMS.launch, 1, out, out / "steps", lambda numbers, step: None)


def sft_rows(rows: list[PromptRow]) -> list[SFTRow]:
    return [
        SFTRow(row.id, "", "safety", row.image, row.system, row.question, "A cup.", "", "", row.earlier) for row in rows
    ]


def dpo_rows(rows: list[PromptRow]) -> list[DPORow]:
    return [
        DPORow(row.id, "", row.image, row.system, row.question, "A cup.", "No.", "", "", "", row.earlier)
        for row in rows
    ]


def trained_on(policy, kind: str, row: PromptRow, out: Path) -> list[int]:
    """The token ids of a row's prompt in the batch that TRL's trainer makes of it."""
    from saferflow.training import dpo, sft

    folder, processor = policy
    shown: list[list[int]] = []

    class Caught(Exception):
        """The batch is there; nothing has to be trained."""

    def catch(ids: torch.Tensor, mask: torch.Tensor) -> None:
        shown.append(ids[0][mask[0].bool()].tolist())
        raise Caught

    recipe = {"batch_size": 2, "micro_batch_size": 2}
    with pytest.MonkeyPatch.context() as patch, suppress(Caught):
        if kind == "grpo":
            params = PARAMS.grpo.model_copy(update=recipe | {"rollout_batch": 2, "group": 2, "rewards": {"none": 1.0}})
            none = {"none": lambda completions, **columns: [0.0] * len(completions)}
            trainer = grpo_trainer(load_model(folder, POLICY), processor, [row], none, params, job(out))
            rolled_out = trainer._generate_and_score_completions
            patch.setattr(
                trainer,
                "_generate_and_score_completions",
                lambda inputs: catch(*(rolled_out(inputs)[name] for name in ("prompt_ids", "prompt_mask"))),
            )
            trainer.train()
        else:
            section = {"sft": PARAMS.sft, "dpo": PARAMS.dpo}[kind].model_copy(update=recipe)
            trainers = {"sft": sft.Trainer, "dpo": dpo.Trainer}
            patch.setattr(
                trainers[kind],
                "compute_loss",
                lambda self, model, inputs, *args, **kwargs: catch(*_prompt_of(inputs)),
            )
            if kind == "sft":
                train_sft("sft", load_model(folder, POLICY), processor, sft_rows([row, row]), section, job(out))
            else:
                model, reference = load_model(folder, POLICY), load_model(folder, POLICY)
                train_dpo(model, reference, processor, dpo_rows([row, row]), section, job(out))
    [ids] = shown
    return ids


def _prompt_of(inputs: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, tokens) ids, and a mask of those that are not learnt: of prompts."""
    learnt = inputs["completion_mask"] if "completion_mask" in inputs else inputs["labels"] != -100
    return inputs["input_ids"], inputs["attention_mask"].bool() & ~learnt.bool()


@pytest.mark.parametrize("kind", ["sft", "dpo", "grpo"])
@pytest.mark.parametrize("turns", [1, 2, 3, 4])
@pytest.mark.parametrize("image", [PICTURES[0].image, None], ids=["image", "text"])
def test_training_and_evaluation_see_the_same_tokens(policy, asked, kind, turns, image, tmp_path):
    row = prompt_row(0, turns, image)
    ids = asked(Prompt.of(row))
    assert trained_on(policy, kind, row, tmp_path / "out") == ids
    tokenizer = policy[1].tokenizer
    parts = tokenizer.decode(ids).split("<|im_start|>")[1:]
    roles = ["system", *["user", "assistant"] * turns]
    assert [part.partition("\n")[0] for part in parts] == roles
    holding = [number for number, part in enumerate(parts) if "<|image_pad|>" in part]
    assert holding == ([1] if image else []), "the image stands in the first turn of the user"
    spoken = [text for turn in zip(QUESTIONS, ANSWERS, strict=True) for text in turn][: 2 * turns - 1]
    assert all(text in part for text, part in zip(spoken, parts[1:], strict=False))


def test_a_pair_with_earlier_turns_shares_its_prompt_in_the_packed_row(policy):
    folder, processor = policy
    model = load_model(folder, POLICY)
    row = prompt_row(0, 3, PICTURES[0].image)
    image = open_rgb(row.image)
    text = processor.apply_chat_template([chat(row.system, row.last_question, image, row.turns)], tokenize=False)
    inputs = processor(text=text * 2, images=[image, image], return_tensors="pt")
    prompt = inputs["input_ids"].shape[1]
    ids = torch.cat([inputs.pop("input_ids"), torch.tensor([[50, 60], [70, 80]])], dim=1)
    labels = torch.cat([torch.full((2, prompt), -100), ids[:, prompt:]], dim=1)
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    made = packed(model.model, **inputs)
    assert made.ids.shape == (1, prompt + 2 + 2)  # the prompt once, and two completions of two tokens
    assert len(made.grids) == 1


@pytest.mark.parametrize("kind", ["sft", "dpo", "grpo"])
def test_a_step_is_made_on_rows_of_one_to_four_turns(policy, kind, tmp_path):
    folder, processor = policy
    model, out = load_model(folder, POLICY), tmp_path / "out"
    if kind == "sft":
        params = PARAMS.sft.model_copy(update=SMALL)
        metrics = train_sft("sft", model, processor, sft_rows(ROWS), params, job(out))
    elif kind == "dpo":
        params = PARAMS.dpo.model_copy(update=SMALL)
        metrics = train_dpo(model, load_model(folder, POLICY), processor, dpo_rows(ROWS), params, job(out))
    else:
        recipe = SMALL | {"rollout_batch": 4, "rewards": {"length": 1.0}}
        length = {"length": lambda completions, **columns: [len(each[0]["content"]) % 2 for each in completions]}
        params = PARAMS.grpo.model_copy(update=recipe)
        metrics = train_grpo(model, processor, ROWS, length, params, job(out), out / "rollouts.jsonl")
    assert math.isfinite(metrics["train_loss"])


def test_evaluation_asks_a_row_with_the_turns_that_it_has(policy, monkeypatch):
    shown: list[Prompt] = []

    def answering(model, processor, prompts, **kwargs):
        shown.extend(prompts)
        return (["An answer."] for _ in prompts)

    monkeypatch.setattr(engines, "complete", answering)
    labels = '{"kind": "safety", "hazard": "none", "severity": 0, "risk_source": "none", "attack": "none", '
    labels += '"decision": "answer", "objects": [], "facts": []}'
    rows = [replace(row, labels=labels) for row in ROWS]
    answered = evaluate.answers("sft", policy[0], rows, PARAMS)
    assert shown == [Prompt.of(row) for row in rows]
    assert [row.row for row in answered] == ["r1", "r2", "r3", "r4"]
    shown.clear()
    second = replace(rows[1], id="second", question=f"{rows[1].question}\nSure?", earlier="")
    evaluate.dialogues("base", policy[0], [[rows[1], second]], PARAMS)
    first, last = shown
    assert (first.system, first.question, first.earlier) == ("", QUESTIONS[1], ((QUESTIONS[0], ANSWERS[0]),))
    assert (last.question, last.earlier) == ("Sure?", (*first.earlier, (QUESTIONS[1], "An answer.")))
