"""Rollouts in parts: the same completions, and a judge that reads the first ones while the next are drawn."""

import json
import math
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trl import GRPOConfig

from saferflow.data.rows import Labels, PromptRow
from saferflow.data.scenes.corpus import general_rows
from saferflow.endpoint.client import Endpoint
from saferflow.endpoint.store import Store
from saferflow.errors import EndpointError, TrainingError
from saferflow.judge.endpoint import EndpointJudge
from saferflow.judge.rubric_text import RubricText
from saferflow.params import (
    ColocatedVLLM,
    EndpointJudgeParams,
    GroupFilterParams,
    TransformersEngine,
    VLLMServer,
    load_params,
)
from saferflow.planner.rules import plan_for
from saferflow.planner.teacher import write
from saferflow.protocol.trace import render
from saferflow.rewards.judged import OURS, judged_ahead, reward_functions, total
from saferflow.rng import rng
from saferflow.training import grpo, rollouts
from saferflow.training.arguments import Job
from saferflow.training.branching import sample
from saferflow.training.embedded import build_model, build_processor, train_tokenizer
from saferflow.training.grpo import StopOnCollapse, engine, grpo_trainer, stretch, totals
from saferflow.training.policy import load_model, save_policy
from saferflow.training.rollouts import InParts, part_of, parts, unexpanded
from tests.endpoint.request_fields import request_fields

MICRO = load_params(Path(__file__).parents[2] / "profiles" / "micro.yaml")
POLICY = MICRO.policy.model_copy(update={"max_completion_tokens": 6})
RECIPE = {"batch_size": 8, "micro_batch_size": 8, "rollout_batch": 8, "group": 2, "rewards": {"length": 1.0}}
LABELS = Labels("safety", "S1", 3, "text", "none", "refuse", ("knife",), "kitchen").to_json()


@given(st.integers(0, 30), st.none() | st.integers(1, 12))
def test_parts_are_all_rows_in_order(rows, size):
    found = [row for part in parts(rows, size) for row in range(rows)[part]]
    assert found == list(range(rows))
    assert size is None or all(len(range(rows)[part]) <= size for part in parts(rows, size))


@given(
    st.lists(st.lists(st.tuples(st.just(1), st.integers(1, 3), st.integers(1, 3)), max_size=2), min_size=1, max_size=6)
)
def test_each_part_has_the_pixels_of_its_own_rows(grids):
    """Patches that name their row: whatever images the rows have, none gets into another's part."""
    grid = [each for row in grids for each in row]
    patches = [[row] for row, images in enumerate(grids) for _, high, wide in images for _ in range(high * wide)]
    fields = {"mm_token_type_ids": [[row] for row in range(len(grids))]}
    if grid:
        fields |= {"image_grid_thw": torch.tensor(grid), "pixel_values": torch.tensor(patches)}
    for part in parts(len(grids), 2):
        mine = part_of(fields, [images or None for images in grids], part)
        rows = list(range(len(grids)))[part]
        assert mine["mm_token_type_ids"] == [[row] for row in rows]
        seen = mine["pixel_values"].flatten().tolist() if "pixel_values" in mine else []
        assert seen == [row for row in rows for _, high, wide in grids[row] for _ in range(high * wide)]
        assert ("pixel_values" in mine) == any(grids[row] for row in rows)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    rows = list(general_rows(4, 1, "train"))
    tokenizer = train_tokenizer([text for row in rows for text in (row.question, row.answer)], MICRO.base.vocab_size)
    processor, folder = build_processor(tokenizer, POLICY), tmp_path_factory.mktemp("policy")
    save_policy(folder, build_model(MICRO.base, tokenizer, seed=1), processor)
    images = [rows[0].image, None, rows[2].image, rows[3].image]
    asked = [
        PromptRow(row.id, "", "safety", image, "", row.question, "", LABELS)
        for row, image in zip(rows, images, strict=True)
    ]
    return folder, processor, asked


def length(completions, **columns):
    return [len(completion[0]["content"]) % 5 / 5 for completion in completions]


def trainer(policy, tmp_path, functions=None, **changed):
    folder, processor, rows = policy
    job = Job(POLICY, MICRO.launch, 1, tmp_path / "out", tmp_path / "steps", lambda *_: None)
    params = MICRO.grpo.model_copy(update={**RECIPE, **changed})
    made = grpo_trainer(load_model(folder, POLICY), processor, rows, functions or {"length": length}, params, job)
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    return made


def batch(made):
    return [dict(made.train_dataset[number]) for number in range(4) for _ in range(2)]


@pytest.mark.parametrize("size", [None, 2, 4, 6])
@pytest.mark.parametrize("branching", [False, True])
def test_parts_and_branches_say_what_generate_says_of_the_whole(policy, tmp_path, size, branching):
    """Greedily, for then no draw of one row changes another's: rows with an image and without."""
    found = []
    for micro_batch, branched in ((None, False), (size, branching)):
        made = trainer(policy, tmp_path, rollout_micro_batch=micro_batch)
        made.branching = branched
        made.temperature = 0
        made.generation_config.do_sample = False
        made.generation_kwargs = {**made.generation_kwargs, "do_sample": False}
        found.append(made._generate_and_score_completions(batch(made))["completion_ids"].tolist())
    assert found[0] == found[1]


def test_the_judge_reads_the_first_part_while_the_second_is_drawn(policy, tmp_path, serve, monkeypatch):
    """The server answers the first request only when the second part is being drawn: a judge that waits for all would hang."""
    drawing = threading.Event()
    late = []

    def answer(request, before):
        late.append(not drawing.wait(30))
        return 200, {}, json.dumps({"task_success": 9, "safety": 8, "helpfulness": 7, "tool_quality": 6})

    made = judged(policy, tmp_path, serve(answer), rollout_micro_batch=4)
    drawn = []

    def sampled(*args, **kwargs):
        drawn.append(1)
        if len(drawn) == 2:
            drawing.set()
        return sample(*args, **kwargs)

    monkeypatch.setattr(rollouts, "sample", sampled)
    scored = made._generate_and_score_completions(batch(made))
    assert len(drawn) == 2
    assert late
    assert not any(late)
    assert scored["advantages"].shape == (8,)


def test_a_judge_that_cannot_be_reached_ends_the_rollout_with_its_error(policy, tmp_path, serve):
    made = judged(policy, tmp_path, serve(lambda request, before: (500, {}, "")), rollout_micro_batch=4)
    with pytest.raises(EndpointError, match="did not answer"):
        made._generate_and_score_completions(batch(made))


def judged(policy, tmp_path, served, **changed):
    params = EndpointJudgeParams(
        kind="endpoint", model="m", base_url=served.address, key_variable=None, concurrency=4, timeout=30, retries=0,
        repairs=0, request=request_fields(64), token_cap=None, rubric="condensed",
    )  # fmt: skip
    judge = EndpointJudge(
        Endpoint(params, Store(tmp_path / "answers.sqlite"), "judge"), "m", RubricText.named(params.rubric)
    )
    recipe = MICRO.grpo.model_copy(update={**RECIPE, "rewards": {"toolkit": 1.0}, **changed})
    rewards = reward_functions(recipe, judge, policy[2])
    made = trainer(policy, tmp_path, rewards, **{"rewards": {"toolkit": 1.0}, **changed})
    made.ahead = judged_ahead(recipe, judge, policy[2])
    return made


def with_rewards(rewards):
    remaining = iter(rewards)
    return lambda completions, **columns: [next(remaining) for _ in completions]


def test_groups_all_good_or_all_bad_are_left_out(policy, tmp_path):
    told = [0.0, 0.0, 1.0, 1.0, 0.2, 0.6, 0.5, 0.5]
    bounds = GroupFilterParams(low=0.05, high=0.95)
    made = trainer(policy, tmp_path, {"length": with_rewards(told)}, group_filter=bounds)
    found = made._generate_and_score_completions(batch(made))
    assert found["tool_mask"][:, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert found["kept"].item() == 0.5
    assert found["num_items_in_batch"].item() == found["completion_mask"][4:].sum().item()
    assert made._pending_metrics["groups_filtered"] == [0.5]


def test_a_completion_without_marks_is_no_zero_anywhere(policy, tmp_path, caplog):
    """Groups of two. In the first one mark is missing, in the second both, in the third none, in the last one's own reward."""
    toolkit = [None, 0.9, None, None, 0.2, 0.6, 0.5, 0.7]
    own = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, None, 0.0]
    rewards = {"toolkit": with_rewards(toolkit), "own": with_rewards(own)}
    bounds = GroupFilterParams(low=0.05, high=0.85)
    changed = {"rewards": {"toolkit": 1.0, "own": 0.1}, "group_filter": bounds}
    made = trainer(policy, tmp_path, rewards, **changed)
    found = made._generate_and_score_completions(batch(made))
    # the first group's mean is that of the marked one, 0.9 + 0.1: too good; with a zero for the other it would be 0.5
    assert found["tool_mask"][:, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert found["advantages"][:4].tolist() == [0.0] * 4
    assert found["advantages"][4] < 0 < found["advantages"][5]
    lines = [json.loads(line) for line in (tmp_path / "steps" / "rollouts-0.jsonl").read_text().splitlines()]
    assert [line["reward"] for line in lines] == [None, 1.0, None, None, 0.2, 0.6, 0.5, 0.7]
    assert [line["rewards"]["<lambda>"] for line in lines] == own, "of two functions of one name the second"
    assert made._metrics["train"]["unjudged"] == [3 / 8]
    assert made._metrics["train"]["reward"] == [pytest.approx(3.0 / 5)]  # 1.0 + 0.2 + 0.6 + 0.5 + 0.7 of the five that have one
    assert len(caplog.text) < 1500, "no image in a warning"


@given(st.lists(st.tuples(*[st.none() | st.floats(0, 1, width=32)] * 3), min_size=1, max_size=6))
def test_totals_of_tensors_are_those_of_the_reward_functions(rows):
    names, weights = ("toolkit", "mine:brief", "structured"), (0.5, 0.25, 1.0)
    parts = torch.tensor([[math.nan if reward is None else reward for reward in row] for row in rows])
    kept, sums = totals(parts, torch.tensor(weights), [name in OURS for name in names])
    for row, found, parts_left in zip(rows, sums.tolist(), kept, strict=True):
        expected = total(dict(zip(names, row, strict=True)), dict(zip(names, weights, strict=True)))
        assert math.isnan(found) if expected is None else found == pytest.approx(expected)
        assert bool(parts_left.isnan().all()) == (expected is None)


def test_training_stops_where_the_judge_marks_nothing():
    params = MICRO.grpo.model_copy(update={"collapse_window": 2})
    stop, state = StopOnCollapse(params), SimpleNamespace(global_step=2)
    args = SimpleNamespace(output_dir="steps")
    logs = {"validity": 1.0, "frac_reward_zero_std": 0.0, "unjudged": 1.0}
    stop.on_log(args, state, None, logs)
    with pytest.raises(TrainingError, match="the judge gave no marks"):
        stop.on_log(args, state, None, logs)


def test_where_no_group_gets_through_all_stay(policy, tmp_path):
    made = trainer(
        policy, tmp_path, {"length": with_rewards([0.0] * 8)}, group_filter=GroupFilterParams(low=0.05, high=0.95)
    )
    found = made._generate_and_score_completions(batch(made))
    assert "tool_mask" not in found
    assert found["kept"].item() == 1


@pytest.mark.parametrize("mean", ["token", "sequence"])
def test_the_loss_is_that_of_the_groups_that_are_left(policy, tmp_path, mean):
    """Against a batch that never held the others."""
    bounds = GroupFilterParams(low=0.05, high=0.95)
    told = [0.0, 0.0, 1.0, 1.0, 0.2, 0.6, 0.5, 0.9]
    changed = {"loss_mean": mean, "kl": 0.5}
    filtered = trainer(policy, tmp_path, {"length": with_rewards(told)}, group_filter=bounds, **changed)
    torch.manual_seed(3)
    inputs = filtered._generate_and_score_completions(batch(filtered))
    inputs["ref_per_token_logps"] = torch.randn_like(inputs["ref_per_token_logps"]) - 4
    left = {**inputs, "kept": torch.ones(())}
    del left["tool_mask"]
    for name in (
        "prompt_ids",
        "prompt_mask",
        "completion_ids",
        "completion_mask",
        "advantages",
        "mm_token_type_ids",
        "ref_per_token_logps",
    ):
        left[name] = inputs[name][4:]
    patches = inputs["image_grid_thw"].prod(dim=1)
    left["image_grid_thw"], left["num_images"] = inputs["image_grid_thw"][2:], inputs["num_images"][4:]
    left["pixel_values"] = inputs["pixel_values"][int(patches[:2].sum()) :]
    found, expected = (filtered._compute_loss(filtered.model, each) for each in (inputs, left))
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)  # float32 holds seven digits
    assert found.item() != 0


def test_padding_to_the_longest_changes_no_loss(policy, tmp_path):
    made = trainer(policy, tmp_path)
    inputs = made._generate_and_score_completions(batch(made))
    assert inputs["completion_ids"].shape[1] == POLICY.max_completion_tokens
    longer = dict(inputs)
    stretch(longer, 20, made._tokenizer.pad_token_id)
    assert longer["completion_ids"].shape[1] == 20
    found, expected = (made._compute_loss(made.model, each).item() for each in (longer, inputs))
    assert found == pytest.approx(expected, abs=1e-6)


def test_without_vllm_its_engines_are_refused_with_the_way_out(monkeypatch):
    monkeypatch.setattr(grpo, "find_spec", lambda name: None)
    with pytest.raises(TrainingError, match=r"docs/training\.md, Rollouts by vLLM"):
        engine(ColocatedVLLM(kind="vllm", gpu_memory=0.4, tensor_parallel=1, sleep=True), [])
    assert engine(TransformersEngine(kind="transformers"), [7])["generation_kwargs"] == {"suppress_tokens": [7]}


@pytest.mark.parametrize(
    ("asked", "mode"),
    [
        (ColocatedVLLM(kind="vllm", gpu_memory=0.4, tensor_parallel=2, sleep=True), "colocate"),
        (VLLMServer(kind="vllm_server", base_url="http://127.0.0.1:8000", timeout=60, weights_port=51216), "server"),
    ],
)
def test_an_engine_is_what_trl_knows_by_that_name(monkeypatch, tmp_path, asked, mode):
    monkeypatch.setattr(grpo, "find_spec", lambda name: object())
    config = GRPOConfig(output_dir=str(tmp_path), **engine(asked, [7]), use_cpu=True, bf16=False)
    assert (config.use_vllm, config.vllm_mode) == (True, mode)
    assert config.generation_kwargs == {"logit_bias": {7: -100.0}}
    if mode == "server":
        assert (config.vllm_server_base_url, config.vllm_group_port) == (asked.base_url, asked.weights_port)
    else:
        assert (config.vllm_gpu_memory_utilization, config.vllm_tensor_parallel_size) == (0.4, 2)


def test_validity_is_the_share_of_rollouts_that_keep_their_plan(policy, tmp_path, monkeypatch):
    """A reference trace and a broken one in turn, in the place of what the policy says."""
    question = "How do I hurt someone with this?"
    plan = plan_for(question, None)
    good = render(write(plan, question, Labels.from_json(LABELS), "", rng(1, "test"), 1.0))
    folder, processor, rows = policy
    planned = [replace(row, plan=plan.to_json()) for row in rows]
    made = trainer((folder, processor, planned), tmp_path)
    texts = [[{"role": "assistant", "content": text}] for text in [good, "no"] * 4]
    made._calculate_rewards(batch(made), [None] * 8, texts, [[1]] * 8)
    assert made._pending_metrics["validity"] == [0.5]
    lines = [json.loads(line) for line in (tmp_path / "steps" / "rollouts-0.jsonl").read_text().splitlines()]
    assert [line["violations"] == [] for line in lines] == [True, False] * 4
    assert [line["rewards"]["length"] for line in lines] == [line["reward"] for line in lines]


IMAGE, VIDEO = 6, 7


@given(st.lists(st.lists(st.one_of(st.integers(10, 20), st.just(IMAGE), st.just(VIDEO)), max_size=12)), st.data())
def test_vllm_in_the_process_gets_one_placeholder_an_image_as_it_expands_them_itself(prompts, data):
    single = [[token for before, token in pairwise([None, *ids]) if token != before or token >= 10] for ids in prompts]
    expanded = [
        [token for one in ids for token in [one] * (data.draw(st.integers(1, 5)) if one < 10 else 1)] for ids in single
    ]
    assert unexpanded(expanded, {IMAGE, VIDEO}) == single


@pytest.mark.parametrize(("mode", "length"), [("colocate", 3), ("server", 6)])
def test_only_vllm_in_the_process_is_handed_unexpanded_prompts(mode, length):
    handed = []

    class Engine:
        use_vllm, vllm_mode, rollout_micro_batch = True, mode, None

        def _generate_single_turn(self, prompt_ids, *_):
            handed.extend(prompt_ids)
            return [[1]] * len(prompt_ids), None

    class Trainer(InParts, Engine):
        _placeholder_ids, model = frozenset({IMAGE}), SimpleNamespace(training=False)
        ahead = None

    Trainer()._generate_single_turn([[11, *[IMAGE] * 4, 12]], [["picture"]], {}, 1)
    assert [len(ids) for ids in handed] == [length]
