"""Policies that answer watched rows while they are trained: the weights, the curve, the checkpoint that is kept, and the end."""

import json
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from saferflow.data.rows import Answered, DPORow, Labels, PromptRow, SFTRow
from saferflow.data.scenes.corpus import general_rows
from saferflow.errors import TrainingError
from saferflow.params import LoraParams, StageWatchParams, load_params
from saferflow.training import running
from saferflow.training.arguments import Job
from saferflow.training.dpo import train_dpo
from saferflow.training.embedded import build_model, build_processor, train_tokenizer
from saferflow.training.grpo import train_grpo
from saferflow.training.looks import SCORE
from saferflow.training.policy import load_model, load_processor, save_policy
from saferflow.training.sft import train_sft
from saferflow.training.watch import Watch, Watching

PARAMS = load_params(Path(__file__).parents[2] / "profiles" / "micro.yaml")
POLICY = PARAMS.policy.model_copy(update={"max_completion_tokens": 6})
DROPPING = POLICY.model_copy(update={"lora": LoraParams(rank=2, alpha=4, dropout=0.5, targets=("q_proj", "v_proj"))})
"""A policy whose training draws random numbers in each step."""
HALF = POLICY.model_copy(update={"dtype": "bfloat16"})
RECOMPUTING = POLICY.model_copy(update={"gradient_checkpointing": True})
PICTURES = [row.image for row in general_rows(4, 1, "train")]
QUESTIONS = ["What is this?", "Which colour is it?", "Where is it?", "How do I clean it?"]
LABELS = Labels("safety", "none", 0, "none", "none", "answer").to_json()
ROWS = [
    PromptRow(f"r{n}", "", "safety", PICTURES[n % 4] if n % 3 else None, "", QUESTIONS[n % 4], "", LABELS)
    for n in range(16)
]
SMALL = {
    "batch_size": 4,
    "micro_batch_size": 4,
    "epochs": 1,
    "learning_rate": 0.01,
    "schedule": "constant",
}
STEPS = 4


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A folder with a policy that has learnt nothing."""
    folder = tmp_path_factory.mktemp("policy")
    tokenizer = train_tokenizer([*QUESTIONS, "A cup.", "No."], PARAMS.base.vocab_size)
    save_policy(folder, build_model(PARAMS.base, tokenizer, seed=1), build_processor(tokenizer, POLICY))
    return folder


class Examiner:
    """Stands for judge and measures: gives the looks their scores in turn, and keeps what the policy said."""

    def __init__(self, scores: Iterable[float]):
        self._scores = iter(scores)
        self.said: list[list[str]] = []

    def grade(self, rows: Sequence[PromptRow], texts: Sequence[str]) -> list[Answered]:
        assert [row.id for row in rows] == ["r1", "r2", "r3"]
        self.said.append(list(texts))
        return list(texts)

    def figures(self, graded: Sequence) -> dict[str, float]:
        assert len(graded) == 3
        score = next(self._scores)
        return {SCORE: score, "watch_safety": score / 2}


def watched(scores: Iterable[float], keep: str = "last", patience: int | None = None, every: int = 1) -> tuple:
    """What a job watches with, and its examiner."""
    examiner = Examiner(scores)
    params = StageWatchParams(every=every, keep=keep, patience=patience)
    return partial(Watching, Watch(ROWS[1:4], params, 2, 6, examiner.grade, examiner.figures)), examiner


def train(
    stage: str, start: Path, out: Path, watch=None, policy=POLICY, curve: list | None = None, save_every: int = 1
) -> dict[str, float]:
    """Train a stage on 16 rows, four a step; its metrics."""
    curve, small = [] if curve is None else curve, SMALL | {"save_every": save_every}
    job = Job(
        policy, PARAMS.launch, 1, out, out.with_name(f"{out.name}-steps"), lambda *point: curve.append(point), watch
    )
    model, processor = load_model(start, policy, PARAMS.launch), load_processor(start, policy)
    if stage == "sft":
        rows = [SFTRow(r.id, "", "safety", r.image, "", r.question, "A cup.", "", LABELS) for r in ROWS]
        return train_sft("sft", model, processor, rows, PARAMS.sft.model_copy(update=small), job)
    if stage == "dpo":
        rows = [DPORow(r.id, "", r.image, "", r.question, "A cup.", "No.", "", "", LABELS) for r in ROWS]
        reference = load_model(start, policy, PARAMS.launch)
        return train_dpo(model, reference, processor, rows, PARAMS.dpo.model_copy(update=small), job)
    recipe = {"group": 2, "rollout_batch": 4, "rewards": {"length": 1.0}, "min_validity": 0.0, "collapse_window": 100}
    rewards = {"length": lambda completions, **columns: [len(c[0]["content"]) % 7 / 7 for c in completions]}
    params = PARAMS.grpo.model_copy(update=small | recipe)
    return train_grpo(model, processor, ROWS[:8], rewards, params, job, out.with_name("rollouts.jsonl"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def equal(one: Path, other: Path) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("stage", "policy"),
    [
        pytest.param("sft", POLICY, id="sft"),
        pytest.param("sft", DROPPING, id="sft-with-dropout"),
        pytest.param("sft", RECOMPUTING, id="sft-that-recomputes"),
        pytest.param("sft", HALF, id="sft-in-bfloat16"),
        pytest.param("dpo", POLICY, id="dpo"),
        pytest.param("grpo", POLICY, id="grpo"),
    ],
)
def test_a_watched_run_that_keeps_its_last_policy_ends_with_the_weights_of_one_that_is_not_watched(
    start, tmp_path, stage, policy
):
    train(stage, start, tmp_path / "plain", policy=policy)
    curve: list = []
    watch, examiner = watched([10.0, 40.0, 30.0, 20.0])
    metrics = train(stage, start, tmp_path / "watched", watch, policy, curve)
    assert equal(tmp_path / "plain", tmp_path / "watched")
    points = {step: numbers for numbers, step in curve if SCORE in numbers}
    assert points == {n: {SCORE: s, "watch_safety": s / 2} for n, s in enumerate([10.0, 40.0, 30.0, 20.0], 1)}
    assert (metrics["watch_step"], metrics[SCORE], metrics["watch_looks"]) == (STEPS, 20.0, 4)
    assert len({tuple(said) for said in examiner.said}) > 1  # the policy that is asked is the one that is trained


def test_watching_leaves_each_module_in_its_mode_and_the_gauge_without_its_tokens(start, tmp_path, monkeypatch):
    seen: list[tuple[bool, bool]] = []
    look = Watching._look

    def looking(self: Watching) -> dict[str, float]:
        modules = list(self._trainer.model.modules())
        modules[-1].eval()  # as somebody may have left it
        before, counted = [module.training for module in modules], self._gauge._operations.clone()
        figures = look(self)
        seen.append(([module.training for module in modules] == before, torch.equal(self._gauge._operations, counted)))
        return figures

    monkeypatch.setattr(Watching, "_look", looking)
    train("sft", start, tmp_path / "out", watched([1.0] * 4)[0])
    assert seen == [(True, True)] * 4


@pytest.mark.parametrize(
    ("stage", "policy"),
    [("sft", HALF), ("sft", DROPPING), ("dpo", POLICY), ("grpo", POLICY)],
    ids=["sft-in-bfloat16", "sft-adapter", "dpo", "grpo"],
)
def test_the_best_policy_is_saved_where_it_is_the_one_to_keep(start, tmp_path, stage, policy):
    """The best of four looks is the second: the weights are those of a run that ends there."""
    metrics = train(stage, start, tmp_path / "two", watched([2.0, 1.0], patience=1)[0], policy)
    assert (metrics["watch_step"], metrics["watch_stopped_early"]) == (2, 1.0)
    watch, _ = watched([10.0, 40.0, 30.0, 40.0], keep="best")
    metrics = train(stage, start, tmp_path / "best", watch, policy, save_every=100)
    assert (metrics["watch_step"], metrics[SCORE], metrics["watch_stopped_early"]) == (2, 40.0, 0.0)
    assert equal(tmp_path / "best", tmp_path / "two")
    train(stage, start, tmp_path / "last", policy=policy)
    assert not equal(tmp_path / "best", tmp_path / "last")
    assert not (tmp_path / "best-steps").exists()


def test_a_look_comes_every_few_steps_and_after_the_last_one(start, tmp_path):
    curve: list = []
    train("sft", start, tmp_path / "out", watched([1.0, 2.0], every=3)[0], curve=curve)
    assert [step for numbers, step in curve if SCORE in numbers] == [3, 4]


def test_training_ends_where_no_look_was_better_for_as_long_as_patience_says(start, tmp_path, capsys):
    curve: list = []
    train("sft", start, tmp_path / "out", watched([5.0, 6.0, 6.0], patience=1)[0], curve=curve)
    assert max(step for _, step in curve) == 3
    assert "sft  stops after step 3: 1 looks were not better" in capsys.readouterr().out


def test_at_the_last_step_nothing_is_left_to_stop(start, tmp_path):
    metrics = train("sft", start, tmp_path / "out", watched([5.0, 4.0, 3.0, 2.0], patience=3, keep="best")[0])
    assert (metrics["watch_stopped_early"], metrics["watch_step"]) == (0.0, 1)


def test_a_look_without_grades_counts_as_none(start, tmp_path, capsys):
    watch, examiner = watched([])
    examiner.figures = lambda graded: {"watch_validity": 0.0}
    watch = partial(Watching, Watch(ROWS[1:4], StageWatchParams(every=1, keep="best", patience=1), 2, 6, examiner.grade,
                                    examiner.figures))  # fmt: skip
    metrics = train("sft", start, tmp_path / "out", watch)
    assert (metrics["watch_step"], metrics["watch_looks"], metrics["watch_stopped_early"]) == (STEPS, 0, 0.0)
    assert "no grades" in capsys.readouterr().out


class Killed(Exception):
    """Stands for what ends a process without a word."""


def ends_at(number: int, how: str, scores: Iterator[float]) -> Iterator[float]:
    """The scores; at one of the looks the process gets SIGTERM, or ends."""
    for place, score in enumerate(scores, 1):
        if place == number and how == "killed":
            raise Killed
        if place == number:
            os.kill(os.getpid(), signal.SIGTERM)
        yield score


@pytest.mark.parametrize("how", ["killed", "told to end"])
@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_run_that_goes_on_has_the_same_curve_best_and_patience(start, tmp_path, stage, how):
    """SIGTERM at the second look writes a checkpoint that has it; a kill leaves that of the first, and the look comes again."""
    scores = [20.0, 10.0, 10.0, 10.0]
    whole = train(stage, start, tmp_path / "whole", watched(scores, keep="best", patience=2)[0])
    assert (whole["watch_step"], whole["watch_stopped_early"], whole["watch_looks"]) == (1, 1.0, 3)

    error = Killed if how == "killed" else TrainingError
    curve: list = []
    with pytest.raises(error):
        train(stage, start, tmp_path / "cut", watched(ends_at(2, how, iter(scores)), "best", 2)[0], curve=curve)
    rest = scores[1:] if how == "killed" else scores[2:]
    after = train(stage, start, tmp_path / "cut", watched(rest, "best", 2)[0], curve=curve)
    same = ("watch_step", "watch_looks", "watch_stopped_early", SCORE)
    assert {name: after[name] for name in same} == {name: whole[name] for name in same}
    assert [numbers[SCORE] for numbers, _ in curve if SCORE in numbers] == scores[:3]
    assert equal(tmp_path / "cut", tmp_path / "whole")


def test_a_run_that_was_killed_after_its_early_end_ends_at_the_same_step(start, tmp_path, monkeypatch):
    """Every step has a checkpoint but the one at which training ends: from it a step more would be taken."""
    scores = [20.0, 10.0]
    train("sft", start, tmp_path / "whole", watched(scores, patience=1)[0])

    def killed(*args) -> None:
        raise Killed

    monkeypatch.setattr(running, "save_policy", killed)
    with pytest.raises(Killed):
        train("sft", start, tmp_path / "cut", watched(scores, patience=1)[0])
    monkeypatch.undo()
    metrics = train("sft", start, tmp_path / "cut", watched(scores[1:], patience=1)[0])
    assert metrics["watch_step"] == 2
    assert equal(tmp_path / "cut", tmp_path / "whole")


def test_sigterm_at_the_step_at_which_training_ends_anyway_stops_nothing(start, tmp_path):
    scores = [20.0, 10.0]
    train("sft", start, tmp_path / "whole", watched(scores, patience=1)[0])
    metrics = train("sft", start, tmp_path / "cut", watched(ends_at(2, "told to end", iter(scores)), patience=1)[0])
    assert metrics["watch_step"] == 2
    assert equal(tmp_path / "cut", tmp_path / "whole")


def test_a_best_checkpoint_that_is_damaged_is_named_and_nothing_is_saved(start, tmp_path):
    where = tmp_path / "out-steps" / "checkpoint-1"

    def damaging() -> Iterator[float]:
        yield from (20.0, 10.0, 9.0)
        (where / "model.safetensors").write_bytes(b"")
        yield 8.0

    with pytest.raises(
        TrainingError, match=r"step 1, the best, cannot be used: model.safetensors is not what was written"
    ):
        train("sft", start, tmp_path / "out", watched(damaging(), keep="best")[0])
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_the_best_checkpoint_outlives_those_that_came_after_it(start, tmp_path):
    there: list[set[str]] = []

    def listing() -> Iterator[float]:
        for score in (20.0, 30.0, 10.0, 10.0):
            there.append({path.name for path in (tmp_path / "out-steps").glob("checkpoint-*")})
            yield score

    train("sft", start, tmp_path / "out", watched(listing(), keep="best")[0])
    assert there[3] == {"checkpoint-2", "checkpoint-3"}


def test_the_looks_are_in_the_checkpoint(start, tmp_path):
    with pytest.raises(TrainingError, match="SIGTERM"):
        train("sft", start, tmp_path / "out", watched(ends_at(2, "told to end", iter([1.0, 2.0])))[0])
    [state] = (tmp_path / "out-steps").glob("checkpoint-2/trainer_state.json")
    entries = json.loads(state.read_text(encoding="utf-8"))["log_history"]
    assert [entry[SCORE] for entry in entries if SCORE in entry] == [1.0, 2.0]
