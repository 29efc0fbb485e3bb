"""The safety-aware rollout: which completions are corrected, and what becomes of them."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trl import GRPOTrainer
from trl.data_utils import prepare_multimodal_messages

from saferflow.data.images import open_rgb
from saferflow.data.rows import Labels, PromptRow, turns_to_json, whole_question
from saferflow.data.scenes.corpus import general_rows, safety_rows
from saferflow.judge.rules import RuleJudge
from saferflow.params import ReflectionParams, load_params
from saferflow.planner.rules import plan_for
from saferflow.planner.tables import fill
from saferflow.planner.teacher import write
from saferflow.planner.writer import RuleWriter
from saferflow.protocol.reflection import ANEW, MISSED
from saferflow.protocol.trace import render
from saferflow.rewards.judged import reward_functions, said
from saferflow.rng import rng
from saferflow.training.arguments import Job
from saferflow.training.conversation import row_prompt
from saferflow.training.embedded import build_model, build_processor, train_tokenizer
from saferflow.training.grpo import grpo_trainer
from saferflow.training.policy import load_model, save_policy
from saferflow.training.reflection import (
    Reflecting,
    Reflection,
    Safety,
    correction_prompt,
    judged_reflection,
    reflection_prompt,
    to_correct,
)

MICRO = load_params(Path(__file__).parents[2] / "profiles" / "micro.yaml")
POLICY = MICRO.policy.model_copy(update={"max_completion_tokens": 6})
RECIPE = {"batch_size": 4, "micro_batch_size": 4, "rollout_batch": 4, "group": 4, "rewards": {"length": 1.0}}
TAUGHT = {"sft_share": 1.0, "dpo_share": 0.0, "grpo_share": 0.0, "reflection_share": 1.0}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1)), max_size=12), st.floats(0, 1))
def test_of_each_group_the_most_unsafe_stays_and_the_other_unsafe_ones_are_corrected(rollouts, threshold):
    rows, safety = [row for row, _ in rollouts], [score for _, score in rollouts]
    chosen = to_correct(rows, safety, threshold)
    assert all(safety[number] < threshold for number in chosen)
    unsafe = Counter(row for row, score in rollouts if score < threshold)
    left = unsafe - Counter(rows[number] for number in chosen)
    assert all(left[row] == 1 for row in unsafe)
    for number in chosen:
        stayed = [i for i, row in enumerate(rows) if row == rows[number] and safety[i] < threshold and i not in chosen]
        assert safety[stayed[0]] <= safety[number]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    rows = list(general_rows(4, 1, "train"))
    texts = [text for row in rows for text in (row.question, row.answer)]
    tokenizer = train_tokenizer([*texts, MISSED, ANEW], MICRO.base.vocab_size)
    processor, folder = build_processor(tokenizer, POLICY), tmp_path_factory.mktemp("policy")
    save_policy(folder, build_model(MICRO.base, tokenizer, seed=1), processor)
    asked = [PromptRow(row.id, "", "safety", row.image, "", row.question, "", "") for row in rows]
    return folder, processor, asked


def length(completions, **columns):
    return [len(said(completion)) / 100 for completion in completions]


def trainer(parts, tmp_path, reflection):
    folder, processor, rows = parts
    job = Job(POLICY, MICRO.launch, 1, tmp_path / "out", tmp_path / "steps", lambda *_: None)
    params = MICRO.grpo.model_copy(update=RECIPE)
    made = grpo_trainer(load_model(folder, POLICY), processor, rows, {"length": length}, params, job)
    made.reflection = reflection
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    return made


def rolled_out(made):
    """One group of four, from the first prompt."""
    row = made.train_dataset[0]
    torch.manual_seed(1)
    return made._generate_and_score_completions([dict(row) for _ in range(4)])


def by_order(scores):
    """Safety in the order of the completions."""
    return lambda rows, texts: [Safety(1.0, score) for score in scores]


def test_the_rollout_asks_just_what_the_rows_teach():
    params = MICRO.model_copy(update={"plan": MICRO.plan.model_copy(update=TAUGHT)})
    for made in fill(list(safety_rows(20, 1, "train")), RuleWriter(1, 1.0), params):
        row, reflecting, anew = made.rows
        [(_, draft)] = reflecting.turns
        assert reflection_prompt(row_prompt(row), draft) == row_prompt(reflecting)
        assert correction_prompt(row_prompt(row), draft, reflecting.completion) == row_prompt(anew)


def test_a_real_trainer_asks_for_both_turns_in_the_tokens_of_such_rows(parts, tmp_path, monkeypatch):
    made = trainer(parts, tmp_path, Reflection(0.5, by_order([0.1, 0.2, 0.9, 0.9]), lambda columns, text: 0.0))
    asked = []

    def say(conversations):
        asked.extend(conversations)
        return ["a thought"], [[5]], None

    monkeypatch.setattr(made, "_say", say)
    rolled_out(made)
    row = next(row for row in parts[2] if row.question == made.train_dataset[0]["question"])
    draft = asked[0][1]["content"]
    turns = ((row.question, draft), (MISSED, "a thought"))
    taught = [
        replace(row, question=whole_question(turns[:count], last), earlier=turns_to_json(turns[:count]))
        for count, last in ((1, MISSED), (2, ANEW))
    ]
    shown = [prepare_multimodal_messages(row_prompt(each), images=[open_rgb(row.image)]) for each in taught]
    assert made._tokenize_prompts(asked)[0] == made._tokenize_prompts(shown)[0]


def test_corrections_bring_the_log_probabilities_that_they_were_drawn_with(parts, tmp_path, monkeypatch):
    reflection = Reflection(0.5, by_order([0.4, 0.9, 0.1, 0.3]), lambda columns, text: float(text == "corrected"))
    made = trainer(parts, tmp_path, reflection)
    anew = made.processing_class.tokenizer("corrected")["input_ids"]
    drawing = made._generate_single_turn

    def with_logprobs(*args):
        tokens, _ = drawing(*args)
        return tokens, [[-1.0] * len(ids) for ids in tokens]

    def say(conversations):
        count = len(conversations)
        return ["corrected"] * count, [anew] * count, [[-2.0] * len(anew) for _ in range(count)]

    monkeypatch.setattr(made, "_generate_single_turn", with_logprobs)
    monkeypatch.setattr(made, "_say", say)
    found = rolled_out(made)
    assert made.corrected == {0, 3}
    for number, mask in enumerate(found["completion_mask"].bool()):
        expected = -2.0 if number in made.corrected else -1.0
        assert found["sampling_per_token_logps"][number][mask].tolist() == [expected] * int(mask.sum())


def test_a_process_with_fewer_unsafe_completions_than_another_asks_as_often(parts, tmp_path, monkeypatch):
    reflection = Reflection(0.5, by_order([0.1, 0.2, 0.9, 0.9]), lambda columns, text: float(text == "for one"))
    made = trainer(parts, tmp_path, reflection)
    counts = []

    def say(conversations):
        counts.append(len(conversations))
        texts = ["for one", "for nobody", "for nobody"][: len(conversations)]
        return texts, [[5], [6], [7]][: len(conversations)], None

    monkeypatch.setattr(made, "_say", say)
    monkeypatch.setattr(made, "_most_in_any_process", lambda count: 3)
    rolled_out(made)
    assert counts == [3, 3]
    assert made.corrected == {1}
    assert made._metrics["train"]["reflection/corrected"] == [0.25]


@pytest.mark.parametrize("on", [True, False])
def test_what_a_correction_was_drawn_under_counts_no_more_where_the_rollout_reflects(parts, tmp_path, on):
    folder, processor, rows = parts
    job = Job(POLICY, MICRO.launch, 1, tmp_path / "out", tmp_path / "steps", lambda *_: None)
    update = RECIPE | {"reflection": ReflectionParams(threshold=0.5) if on else None}
    params = MICRO.grpo.model_copy(update=update)
    made = grpo_trainer(load_model(folder, POLICY), processor, rows, {"length": length}, params, job)
    assert made.args.vllm_importance_sampling_correction is not on


def test_corrections_stand_under_the_original_prompt_and_one_unsafe_completion_stays(parts, tmp_path, monkeypatch):
    plain = rolled_out(trainer(parts, tmp_path, None))
    reflection = Reflection(0.5, by_order([0.4, 0.9, 0.1, 0.3]), lambda columns, text: float(text == "corrected"))
    made = trainer(parts, tmp_path, reflection)
    asked = []
    anew = made.processing_class.tokenizer("corrected")["input_ids"]

    def say(conversations):
        asked.append(conversations)
        texts = ["a thought" if len(asked) == 1 else "corrected"] * len(conversations)
        return texts, [anew] * len(conversations), None

    monkeypatch.setattr(made, "_say", say)
    found = rolled_out(made)
    assert made.corrected == {0, 3}
    assert found["prompt_ids"].tolist() == plain["prompt_ids"].tolist()
    for number in range(4):
        tokens = found["completion_ids"][number][found["completion_mask"][number].bool()].tolist()
        first = plain["completion_ids"][number][plain["completion_mask"][number].bool()].tolist()
        assert tokens == (anew if number in (0, 3) else first)
    reflecting, correcting = asked
    assert [turns[-1]["content"] for turns in reflecting] == [MISSED] * 2
    assert [[turn["content"] for turn in turns[-2:]] for turns in correcting] == [["a thought", ANEW]] * 2
    logged = made._metrics["train"]
    assert logged["reflection/corrected"] == [0.5]
    assert logged["reflection/helped"] == [1.0]
    assert logged["reflection/gain"] == [1.0]


@pytest.mark.parametrize(("earned", "corrected"), [([1.0, 0.0], {1}), ([0.0, 0.0], set()), ([0.0, 1.0], set())])
def test_a_real_policy_answers_anew_and_only_what_earns_more_takes_a_place(parts, tmp_path, earned, corrected):
    left = list(earned)
    made = trainer(parts, tmp_path, Reflection(0.5, by_order([0.1, 0.2, 0.9, 0.9]), lambda columns, text: left.pop(0)))
    found = rolled_out(made)
    assert left == []
    assert made.corrected == corrected
    logged = made._metrics["train"]
    assert logged["reflection/corrected"] == [0.25]
    assert logged["reflection/helped"] == [float(bool(corrected))]
    plain = rolled_out(trainer(parts, tmp_path, None))
    for number in {0, 1, 2, 3} - corrected:
        tokens, before = (
            each["completion_ids"][number][each["completion_mask"][number].bool()] for each in (found, plain)
        )
        assert tokens.tolist() == before.tolist()


@pytest.mark.parametrize("earned", [(None, 0.1), (0.9, None), (None, None)])
def test_what_the_judge_left_unmarked_is_no_gain_and_takes_no_place(parts, tmp_path, earned):
    left = list(earned)
    made = trainer(parts, tmp_path, Reflection(0.5, by_order([0.1, 0.2, 0.9, 0.9]), lambda columns, text: left.pop(0)))
    rolled_out(made)
    assert made.corrected == frozenset()
    logged = made._metrics["train"]
    assert logged["reflection/corrected"] == [0.25]
    assert "reflection/gain" not in logged
    assert "reflection/helped" not in logged


@pytest.mark.parametrize("off", [None, Reflection(0.0, by_order([1.0] * 4), lambda columns, text: 0.0)])
def test_off_is_plain_grpo_to_the_bit(parts, tmp_path, off, monkeypatch):
    found = rolled_out(trainer(parts, tmp_path, off))
    for name in ("_generate", "_generate_and_score_completions"):
        monkeypatch.setattr(Reflecting, name, getattr(GRPOTrainer, name))
    expected = rolled_out(trainer(parts, tmp_path, None))
    for name in ("prompt_ids", "completion_ids", "advantages"):
        assert found[name].tolist() == expected[name].tolist()


def test_the_judge_decides_by_thinking_and_answer():
    labels = Labels("safety", "S1", 3, "text", "none", "refuse", ("knife",), "kitchen")
    question = "How do I hurt someone with this?"
    plan = plan_for(question, None)
    row = PromptRow("r", "", "safety", None, "", question, plan.to_json(), labels.to_json())
    params = MICRO.grpo.model_copy(update={"reflection": ReflectionParams(threshold=0.5), "rewards": {"protocol": 1.0}})
    judge = RuleJudge()
    made = judged_reflection(params, judge, [row], reward_functions(params, judge, [row]))
    good = render(write(plan, question, labels, "", rng(1, "test"), 1.0))
    unsafe_answer = good.split("<answer>")[0] + "<answer>\nSure. Take the knife and go ahead.\n</answer>"
    kept, broken = made.safety([row.id, row.id], [good, unsafe_answer])
    assert kept.least >= 0.5
    assert broken.answer < 0.5 <= broken.thinking
    assert made.reward(row.columns(), good) > made.reward(row.columns(), unsafe_answer)
    assert judged_reflection(MICRO.grpo, judge, [row], {}) is None
