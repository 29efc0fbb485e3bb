"""The stages of a profile in a temporary folder, one after the other, until one fails.

The folder has parameters, tables and a checkpoint of its own; the stages run there as the pipeline runs them, and only the code
is the checkout's. Nothing is written outside of it.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from saferflow.data.rows import TABLES, DPORow, PromptRow, SFTRow
from saferflow.data.tables import read_table, write_table
from saferflow.errors import SaferflowError
from saferflow.params import Params
from saferflow.rehearsal import process, tables, whole
from saferflow.rehearsal.memory import Counts, Kinds, kinds
from saferflow.rehearsal.recipe import Machine, Rehearsed, rehearsed
from saferflow.tracking import environment

STAGES = ("base", "plan", "validate", "sft", "dpo", "curate", "grpo", "evaluate")
EMBEDDED = "embedded"
TEXTS = 400
"""Drawn rows that the tokenizer of a checkpoint of random weights learns its words from."""
PACKAGE = Path(__file__).parents[2]
LEFT_OUT = ("MLFLOW_RUN_ID", "SAFERFLOW_COST", "SAFERFLOW_SECONDS")
"""Variables by which a pipeline run that is at work could hear of a rehearsal."""


@dataclass(frozen=True, slots=True)
class Part:
    """One rehearsed stage."""

    stage: str
    done: process.Done | None
    """None where it did not start."""
    error: str = ""
    rows: int = 0
    tokens: tables.Lengths | None = None
    images: tables.Lengths | None = None
    kinds: Kinds | None = None
    """By counts, in the rehearsal."""
    whole_kinds: Kinds | None = None
    """By counts, in a process of the whole run."""
    gpu: float | None = None
    """Bytes on the GPU, at most, where there is one and the stage trains."""
    whole_seconds: float | None = None
    whole_disk: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """What a rehearsal showed."""

    profile: str
    thin: bool
    checkpoint: str
    replaced: tuple[str, ...]
    tokens: int
    """Of a completion that was drawn, at most."""
    parts: tuple[Part, ...]
    rows: Mapping[str, int]
    """Of the whole run."""
    scaled: float
    """By how much the times of a thin model were multiplied."""
    obstacles: tuple[tuple[str, str], ...]

    @property
    def failed(self) -> Part | None:
        return next((part for part in self.parts if part.error), None)


def rehearse(
    root: Path,
    params: Params,
    *,
    steps: int,
    tokens: int,
    thin: bool,
    prompts: int | None,
    say: Callable[[str], None],
) -> Report:
    """Rehearse a profile; what fails is in the report.

    Args:
        root: the checkout, which stays as it is.
        prompts: training rows of the whole run, where the profile's sources do not say.

    Raises:
        PolicyError: the checkpoint is neither at hand nor of a known size.
    """
    with tempfile.TemporaryDirectory(prefix="saferflow-rehearsal-") as name:
        folder = Path(name)
        machine = look()
        base, checkpoint, layers = _checkpoint(params, folder, thin, say)
        recipe = rehearsed(params, machine, steps=steps, tokens=tokens, thin=thin, base=base)
        (folder / "data" / "sources").mkdir(parents=True)
        text = yaml.safe_dump(recipe.params.model_dump(mode="json", by_alias=True), sort_keys=False)
        (folder / "params.yaml").write_text(text, encoding="utf-8")
        run = _Run(root, folder, params, recipe, machine, layers, whole.whole_rows(params, prompts))
        parts = tuple(run.parts(say))
        stops = tuple(whole.obstacles(root, params, machine, run.whole, run.prompt)) if run.whole else ()
        spoken = recipe.params.policy.max_completion_tokens
        return Report(params.run.profile, thin, checkpoint, recipe.replaced, spoken, parts, run.rows, run.scale, stops)


def look() -> Machine:
    """What this machine has now."""
    import psutil
    import torch

    gpus = torch.cuda.device_count()
    memory = torch.cuda.get_device_properties(0).total_memory if gpus else psutil.virtual_memory().available
    return Machine(gpus, memory)


def _checkpoint(
    params: Params, folder: Path, thin: bool, say: Callable[[str], None]
) -> tuple[str, str, tuple[int, int]]:
    """The checkpoint to begin from, what it is in words, and layers and vision blocks of the whole one."""
    if params.base is not None:
        return EMBEDDED, "built by stage base", (params.base.layers, params.base.vision_layers)

    from saferflow.rehearsal import checkpoint

    here = checkpoint.at_hand(params.policy.base)
    config = checkpoint.published_config(params.policy.base, here)
    text = config.get("text_config", config)
    layers = text.get("num_hidden_layers", config.get("num_hidden_layers")), config["vision_config"]["depth"]
    if here is not None and not thin:
        return str(here.resolve()), str(here), layers
    where = "random weights, " + (f"files of {here}" if here else "files written here in the published form")
    say(f"checkpoint  {where}")
    sized = checkpoint.cut(config) if thin else config
    checkpoint.write_checkpoint(folder / "checkpoint", sized, here, _texts(params), params.run.seed)
    return str(folder / "checkpoint"), where, layers


def _texts(params: Params) -> Iterator[str]:
    """System prompts, questions and traces of drawn rows."""
    from saferflow.data.scenes.corpus import safety_rows
    from saferflow.planner.rules import plan_for
    from saferflow.planner.teacher import write
    from saferflow.protocol.trace import render
    from saferflow.rng import rng

    for row in islice(safety_rows(TEXTS, params.run.seed, "train"), TEXTS):
        plan = plan_for(row.question, row.image)
        reference = write(plan, row.question, row.labels, row.answer, rng(params.run.seed, "rehearsal", row.id), 1.0)
        yield from (plan.system_prompt(params.plan.prompt_detail), row.question, render(reference))


class _Run:
    """The stages of one rehearsal, and what is known of the policy once there is one."""

    def __init__(
        self,
        root: Path,
        folder: Path,
        params: Params,
        recipe: Rehearsed,
        machine: Machine,
        layers: tuple[int, int],
        rows: Mapping[str, int],
    ):
        self.root, self.folder, self.params, self.recipe, self.machine = root, folder, params, recipe, machine
        self.layers, self.rows = layers, dict(rows)
        self.counts: Counts | None = None
        self.whole: Counts | None = None
        self.prompt = 0
        """Tokens of the longest row."""
        self.processor: Any = None

    @property
    def scale(self) -> float:
        return self.whole.parameters / self.counts.parameters if self.whole and self.counts else 1.0

    def parts(self, say: Callable[[str], None]) -> Iterator[Part]:
        for stage in STAGES:
            try:
                part = self._part(stage)
            except SaferflowError as error:  # what is refused before the stage begins, or of the tables that it left
                part = Part(stage, None, str(error))
            say(f"{stage}  {'failed' if part.error else f'{part.done.seconds:.0f} s'}")
            yield part
            if part.error:
                return

    def _part(self, stage: str) -> Part:
        if stage == "sft":
            self._count()
        part = Part(stage, None)
        if self.counts is not None:
            part = self._counted(part)
            if part.kinds and part.kinds.total > self.machine.memory:
                return replace(part, error=whole.too_large(part.kinds.total, self.machine))
        done = process.carried_out(process.stage_command(stage), self.folder, self._environ())
        part = replace(part, done=done)
        if done.status:
            return replace(part, error=done.complaint)
        if stage == "plan":
            tables.cut_tables(self.folder / "data" / "tables", self.recipe.rows, self.params.policy)
        if stage == "curate":
            self._curated()
        return self._whole(part) if self.counts is not None else part

    def _count(self) -> None:
        """Read the base policy's files, now that they are there."""
        from transformers import AutoConfig

        from saferflow.training.policy import load_processor, source

        policy = self.recipe.params.policy
        base = self.folder / "models" / "base"
        config = AutoConfig.from_pretrained(source(base))
        self.counts = Counts.of(config, policy)
        config.text_config.num_hidden_layers, config.vision_config.depth = self.layers
        config.text_config.layer_types = [config.text_config.layer_types[0]] * self.layers[0]
        self.whole = Counts.of(config, self.params.policy)
        self.processor = load_processor(base, policy)

    def _counted(self, part: Part) -> Part:
        """With the rows and tokens of its table, and what it holds by counts."""
        from saferflow.training.conversation import spoken

        texts: dict[str, tuple[str, type, Callable[[Any], list[str]]]] = {
            "sft": ("tables/sft", SFTRow, lambda row: [*spoken(row), row.completion]),
            "dpo": ("tables/dpo", DPORow, lambda row: [*spoken(row), row.chosen]),
            "curate": ("tables/grpo", PromptRow, spoken),
            "grpo": ("curated", PromptRow, spoken),
            "evaluate": ("tables/evaluation", PromptRow, spoken),
        }
        name, kind, of = texts[part.stage]
        file = self.folder / "data" / f"{name}.parquet"
        rows, tokens, images = tables.measured(file, kind, of, self.processor)
        self.prompt = max(self.prompt, tokens.most)
        if getattr(self.params, part.stage) is None:
            return replace(part, rows=rows, tokens=tokens, images=images)
        here = kinds(part.stage, self.counts, self.recipe.params, tokens.most)
        there = kinds(part.stage, self.whole, self.params, tokens.most)
        return replace(part, rows=rows, tokens=tokens, images=images, kinds=here, whole_kinds=there)

    def _curated(self) -> None:
        """Give grpo as many prompts as it wants: among a handful curation's choice says nothing."""
        rows = read_table(self.folder / "data" / "tables" / "grpo.parquet", PromptRow)
        write_table(self.folder / "data" / "curated.parquet", rows[: self.recipe.rows["curated"]], TABLES["grpo"])

    def _whole(self, part: Part) -> Part:
        params, here = self.params, self.recipe.params
        completions = {
            "grpo": here.grpo.batch_size,
            "curate": part.rows * here.curate.samples,
            "evaluate": 4 * part.rows,
        }
        pace = whole.Pace(part.done.step_seconds, part.done.speaking_seconds, completions.get(part.stage, 0))
        seconds = None
        if getattr(params, part.stage) is not None:
            seconds = whole.whole_seconds(part.stage, pace, params, here, self.rows)
        metrics = json.loads((self.folder / "metrics" / f"{part.stage}.json").read_text(encoding="utf-8"))
        gpu = metrics["peak_memory_gb"] * 1e9 if self.machine.gpus and "peak_memory_gb" in metrics else None
        disk = whole.whole_disk(part.stage, self.whole, params)
        scaled = seconds * self.scale if seconds is not None else None
        return replace(part, gpu=gpu, whole_seconds=scaled, whole_disk=disk)

    def _environ(self) -> dict[str, str]:
        environ = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
        environ = {**environment.TELEMETRY_OFF, **environment.QUIET, **environ, "PYTHONUNBUFFERED": "1"}
        paths = (str(PACKAGE), str(self.root), environ.get("PYTHONPATH", ""))
        environment.offline(environ)
        return environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
