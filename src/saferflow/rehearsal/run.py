"""Runs the stages of one rehearsal in its folder, and counts the policy once it exists. Source: ours."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from saferflow.data.rows import TABLES, DPORow, PromptRow, SFTRow
from saferflow.data.tables import read_table, write_table
from saferflow.errors import SaferflowError
from saferflow.params import Params
from saferflow.rehearsal import process, tables
from saferflow.rehearsal.memory import Counts, kinds
from saferflow.rehearsal.obstacles import STAGES, no_room, too_large
from saferflow.rehearsal.pace import SAMPLED, SHORT, Duration, Pace, duration
from saferflow.rehearsal.recipe import Machine, Rehearsed
from saferflow.rehearsal.report import Part
from saferflow.rehearsal.whole import disk
from saferflow.tracking import environment

PACKAGE = Path(__file__).parents[2]
LEFT_OUT = ("MLFLOW_RUN_ID", "SAFERFLOW_COST", "SAFERFLOW_SECONDS")
"""Environment variables that would connect a rehearsal to a running pipeline."""


class Run:
    """The stages of one rehearsal."""

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
        """Parameters of the whole model per parameter of the rehearsed one; 1 before they are counted."""
        return self.whole.parameters / self.counts.parameters if self.whole and self.counts else 1.0

    def parts(self, say: Callable[[str], None]) -> Iterator[Part]:
        """Rehearse the stages in order, up to the first that fails; `say` gets one line per stage."""
        for stage in STAGES:
            try:
                part = self.rehearse_stage(stage)
            except SaferflowError as error:  # what is refused before the stage begins, or of the tables that it left
                part = Part(stage, None, str(error))
            say(f"{stage}  {'failed' if part.error else f'{part.done.seconds:.0f} s'}")
            yield part
            if part.error:
                return

    def rehearse_stage(self, stage: str) -> Part:
        """Run one stage and measure it; the earlier stages have run."""
        if stage == "sft":
            self._count()
        part = Part(stage, None)
        if self.counts is not None:
            part = self._counted(part)
            if why := self._refused(part):
                return replace(part, error=why)
        part = replace(part, done=self._run(stage, self.recipe.params))
        if part.done.status:
            return replace(part, error=part.done.complaint)
        if stage == "plan":
            tables.cut_tables(self.folder / "data" / "tables", self.recipe.rows, self.params.policy)
        if self.counts is not None:
            part = self._timed(self._measured(part))
        if stage == "curate":
            self._curated()
        return part

    def _run(self, stage: str, params: Params) -> process.Done:
        """Run a stage with these parameters."""
        text = yaml.safe_dump(params.model_dump(mode="json", by_alias=True), sort_keys=False)
        (self.folder / "params.yaml").write_text(text, encoding="utf-8")
        shutil.rmtree(self.folder / "models" / stage, ignore_errors=True)  # as DVC does
        return process.carried_out(process.stage_command(stage), self.folder, environ(self.root))

    def _refused(self, part: Part) -> str:
        """Why a stage does not start: the counted bytes exceed the memory or the disk; empty if it may start."""
        sharing = 1 if self.machine.gpus else self.recipe.params.launch.processes
        if part.kinds and part.kinds.total * sharing > self.machine.memory:
            return too_large(part.kinds, self.machine)
        written, free = disk(part.stage, self.counts, self.recipe.params), shutil.disk_usage(self.folder).free
        if (needed := written.policy + written.checkpoints) > free:
            return no_room(needed, free, self.folder.parent, "policy and checkpoints (TMPDIR says where)")
        return ""

    def _count(self) -> None:
        """Count the rehearsed and the whole policy from the base policy's files, which exist by now."""
        from saferflow.training.policy import load_config, load_processor

        policy = self.recipe.params.policy
        base = self.folder / "models" / "base"
        config = load_config(base)
        self.counts = Counts.of(config, policy)
        config.text_config.num_hidden_layers, config.vision_config.depth = self.layers
        config.text_config.layer_types = [config.text_config.layer_types[0]] * self.layers[0]
        self.whole = Counts.of(config, self.params.policy)
        self.processor = load_processor(base, policy)

    def _counted(self, part: Part) -> Part:
        """The part with the rows and tokens of its table, and its counted memory."""
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
        """Give grpo the prompts that it needs, uncurated: with few prompts, curation's choice means nothing."""
        rows = read_table(self.folder / "data" / "tables" / "grpo.parquet", PromptRow)
        write_table(self.folder / "data" / "curated.parquet", rows[: self.recipe.rows["curated"]], TABLES["grpo"])

    def _measured(self, part: Part) -> Part:
        """The part with its memory on the GPU, and its disk in the whole run."""
        metrics = json.loads((self.folder / "metrics" / f"{part.stage}.json").read_text(encoding="utf-8"))
        gpu = metrics["peak_memory_gb"] * 1e9 if self.machine.gpus and "peak_memory_gb" in metrics else None
        return replace(part, gpu=gpu, whole_disk=disk(part.stage, self.whole, self.params))

    def _timed(self, part: Part) -> Part:
        """The part with its time in the whole run; a stage that draws completions runs again with shorter ones for that."""
        stage, here = part.stage, self.recipe.params
        seconds = process.seconds(stage, part.done)
        if getattr(self.params, stage) is None or not seconds:
            return part
        pace, tokens = Pace(seconds), here.policy.max_completion_tokens
        if stage in SAMPLED:
            policy = here.policy.model_copy(update={"max_completion_tokens": SHORT})
            again = self._run(stage, here.model_copy(update={"policy": policy}))
            if again.status:
                return replace(part, error=f"with completions of {SHORT} token: {again.complaint}")
            pace = Pace.through((SHORT, process.seconds(stage, again) or 0.0), (tokens, seconds))
        if pace is None:
            why = f"not measured: {tokens} tokens took no longer than {SHORT}; raise --tokens"
            return replace(part, whole=Duration(None, why))
        return replace(part, whole=self._duration(part, pace.times(self.scale)))

    def _duration(self, part: Part, pace: Pace) -> Duration:
        here = self.recipe.params
        completions = {
            "grpo": here.grpo.batch_size,
            "curate": part.rows * here.curate.samples,
            "evaluate": 4 * part.rows,
        }
        return duration(part.stage, pace, completions.get(part.stage, 0), self.params, here, self.rows)


def environ(root: Path) -> dict[str, str]:
    """The environment of a rehearsed stage: the checkout's code, no hub, and no pipeline run to report to."""
    kept = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
    kept = {**environment.TELEMETRY_OFF, **environment.QUIET, **kept, "PYTHONUNBUFFERED": "1"}
    environment.offline(kept)
    paths = (str(PACKAGE), str(root), kept.get("PYTHONPATH", ""))
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
