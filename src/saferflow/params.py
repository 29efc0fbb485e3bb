"""`params.yaml` as frozen types with units and bounds. Values live in the file; there are no defaults here."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from saferflow.errors import ParamsError, problems

Share = Annotated[float, Field(ge=0, le=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]
Topology = Literal["linear", "tree", "mesh", "shield", "loop"]
Rate = Annotated[float, Field(gt=0, le=1)]
EXTENDS = "extends"
"""In a profile: the name of the profile that has what this one leaves out."""


class Section(BaseModel):
    """A part of the parameter file: frozen, and with nothing it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NodesParams(Section):
    """Stages that run on other machines, by workers of a Prefect work pool (docs/cluster.md)."""

    deployment: Annotated[str, Field(pattern=r"^[^/]+/[^/]+$")]
    """`flow/name` of the deployment that runs a stage; prefect.yaml has `stage/gpu`."""
    stages: tuple[str, ...]
    queue: str | None
    """The work queue, where it is not the deployment's own: queues have priorities."""


class RayParams(Section):
    """A Ray cluster whose machines draw a policy's completions (docs/cluster.md)."""

    address: Annotated[str, Field(pattern=r"^(auto|[^\s:/]+:\d+)$")]
    """`host:port` of the cluster's head; `auto`: of the cluster that this machine is in."""
    engines: Positive
    """Copies of the policy that draw at once, at most; the completions are the same with any number."""
    cpus: Annotated[float, Field(gt=0)]
    """Of an engine, which computes with so many threads."""
    gpus: Annotated[float, Field(ge=0)]
    """Of an engine."""


class VLLMParams(Section):
    """A vLLM server that a stage starts for the policy that it asks, and ends after it."""

    concurrency: Positive
    """Prompts that it has at once; it batches them by itself."""
    arguments: tuple[str, ...]
    """Further options of `vllm serve`, as `--tensor-parallel-size=2`."""


class RunParams(Section):
    """What holds for the whole run."""

    profile: str
    seed: int
    workers: Positive
    """Processes that make and check the tables; the tables come out the same with any number."""
    preemptions: Count
    """How often a stage that was told to end, or whose node went away, begins again by itself."""
    budget_hours: Annotated[float, Field(gt=0)] | None
    """What the stages of one pipeline run may take together, in hours times the processes that train: GPU hours, where each has
    a GPU. A training stage whose time is up writes a checkpoint and ends; null sets no bound."""
    nodes: NodesParams | None
    """null: every stage runs on this machine."""
    ray: RayParams | None
    """null: the process of the stage draws all completions itself. Evaluation, attacks, curation and near misses ask it."""
    vllm: VLLMParams | None
    """In place of a Ray cluster, and for the same work: completions are drawn by vLLM; null: by transformers."""

    @model_validator(mode="after")
    def _one_engine(self) -> Self:
        if self.ray and self.vllm:
            raise ValueError("run.ray and run.vllm both draw a policy's completions; set one of them to null")
        return self


class LoraParams(Section):
    """A low-rank adapter (PEFT) in place of full fine-tuning."""

    rank: Positive
    alpha: Positive
    dropout: Share
    targets: tuple[str, ...]
    """Names of the linear modules that get an adapter, or `all-linear` alone; none of the vision tower without `train_vision`."""


class PolicyParams(Section):
    """The model that every stage trains or runs."""

    base: str
    """`embedded`: built and pre-trained by stage `base`. Otherwise the folder or hub name of a Qwen2.5-VL checkpoint."""
    revision: Annotated[str, Field(min_length=1)] | None
    """The commit, tag or branch of a hub name; null: the newest of the main branch. A folder has none."""
    dtype: Literal["float32", "bfloat16"]
    """Of the arithmetic; with bfloat16 and `launch.strategy` ddp the weights that are trained are kept in float32."""
    device: Literal["auto", "cuda"]
    """`cuda` refuses to run where there is no GPU; `auto` takes what is there."""
    train_vision: bool
    gradient_checkpointing: bool
    packed: bool
    """Rows go through the model without padding, and what several completions share (image and prompt) once: the same losses,
    faster."""
    cache_gb: Annotated[float, Field(ge=0)]
    """Disk for what is computed once and read again in other epochs and runs: image features where the vision tower is frozen,
    log-probabilities of DPO's reference. 0 keeps nothing."""
    lora: LoraParams | None
    min_pixels: Positive
    max_pixels: Positive
    """Bounds of an image after resizing, in pixels; a token covers 28 x 28 of them."""
    max_completion_tokens: Positive
    """Where a completion is cut off when a policy speaks."""
    max_cut_share: Share
    """Training stops before it begins where a larger share of the completions to learn is longer than that."""

    @model_validator(mode="after")
    def _only_a_hub_has_revisions(self) -> Self:
        if self.base == "embedded" and self.revision is not None:
            raise ValueError(
                "base is embedded, which has no revision; set revision to null, or name a checkpoint of a hub"
            )
        return self


class LaunchParams(Section):
    """How many processes train sft, dpo and grpo, and where."""

    processes: Positive
    """On each node; one a GPU."""
    nodes: Positive
    rendezvous: Annotated[str, Field(pattern=r"^[^\s:]+:\d+$")] | None
    """`host:port` of one node that all nodes reach; null on one node."""
    strategy: Literal["ddp", "zero2", "zero3", "zero2_offload", "zero3_offload"]
    """`ddp` copies the model to every process; the others are DeepSpeed's, which share optimizer, gradients, weights."""

    @model_validator(mode="after")
    def _nodes_can_meet(self) -> Self:
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError(f"{self.nodes} nodes need rendezvous, the host:port of one of them")
        return self


class ScenesSource(Section):
    """The embedded corpus, drawn by our own code."""

    kind: Literal["scenes"]
    train: Positive
    """Safety rows for training, before they are dealt to sft, dpo and grpo."""
    evaluation: Positive
    """Held-out safety rows."""
    general_train: Count
    """General visual questions mixed into SFT so that general ability stays."""
    general_evaluation: Positive


SourcePath = Annotated[str, Field(pattern=r"^data/sources/[^.]")]
"""Under data/sources, the folder that DVC watches for stage `plan`; a link to a folder elsewhere will do."""


class OwnSource(Section):
    """A user's own rows: a file or a folder of JSON, CSV or Parquet, a WebDataset, or what `datasets` saved to disk."""

    kind: Literal["jsonl", "json", "csv", "parquet", "webdataset", "datasets"]
    path: SourcePath
    licence: str | None
    """Of the rows, as an SPDX identifier; null: not stated."""
    evaluation_share: Annotated[float, Field(ge=0, lt=1)]
    """Share of the rows held out, chosen by row id; a row that says `held_out` itself is not drawn."""
    fields: dict[str, str]
    """Our field name -> the name in the file, for `id`, `image`, `question`, `answer`, `rejected`, `conversation` and the
    labels; absent = our name, or the one that TRL, LLaVA, ShareGPT or Alpaca gives it. An empty name leaves the field out."""
    hazards: dict[str, str]
    """The file's word for a hazard -> ours (S1..S14 or none); of other words S1..S14 stand for themselves."""


class CorpusSource(Section):
    """A published corpus, as its authors lay it out; docs/corpora.md names them."""

    kind: Literal["corpus"]
    name: str
    path: SourcePath
    share: Annotated[float, Field(gt=0, le=1)]
    """Share of the rows that are taken, drawn by row id."""
    evaluation_share: Share | None
    """Share held out, chosen by row id; null: as the authors split it, and a benchmark is held out whole."""
    hazards: dict[str, str]
    """The corpus's word for a hazard -> ours, before our own table."""


Source = Annotated[ScenesSource | OwnSource | CorpusSource, Field(discriminator="kind")]


class DataParams(Section):
    """Where rows come from and what is done with unreadable ones."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    licences: tuple[str, ...] | None
    """Licences, as SPDX identifiers, whose rows may be used; a row of another one, or of none, stops the stage. Null: any."""
    on_bad_row: Literal["fail", "quarantine"]
    max_image_pixels: Positive
    """An image with more pixels is refused before it is decoded."""
    max_image_bytes: Positive


class RequestParams(Section):
    """Fields of a request that not every model takes. Null: not sent, so that the model's own value holds."""

    temperature: Annotated[float, Field(ge=0)] | None
    max_tokens: Positive | None
    """Tokens of an answer, for most servers."""
    max_completion_tokens: Positive | None
    """Tokens of an answer with its reasoning, for OpenAI's reasoning models, which refuse `max_tokens`."""
    reasoning_effort: Annotated[str, Field(min_length=1)] | None
    """`minimal`, `low`, `medium`, `high`, or what else the model knows."""

    @model_validator(mode="after")
    def _has_one_limit(self) -> Self:
        if (self.max_tokens is None) == (self.max_completion_tokens is None):
            number = "neither" if self.max_tokens is None else "both"
            raise ValueError(
                f"{number} of max_tokens and max_completion_tokens is set; set the one that the model takes and the other to null"
            )
        return self


class EndpointParams(Section):
    """An OpenAI-compatible server."""

    model: str
    base_url: Annotated[str, Field(pattern=r"^https?://")]
    key_variable: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] | None
    """Environment variable that holds the key; null where the server wants none. A key never stands in the params."""
    concurrency: Positive
    """Requests at once."""
    timeout: Annotated[float, Field(gt=0)]
    """Seconds for one request."""
    retries: Count
    """Tries after the first, on 429, 5xx, time-out and cut connection, with back-off."""
    repairs: Count
    """How often an answer that is not of the form is sent back."""
    request: RequestParams
    token_cap: Positive | None
    """Tokens, asked and answered, that one stage may spend; null: no bound."""


class RuleWriterParams(Section):
    """Plans and references by rules, from words, pixels and gold labels. The rule planner knows the drawn corpus alone: on other
    rows its suspicion misses most of what is harmful, and the rule teacher says of a picture only what labels say."""

    kind: Literal["rules"]


class EndpointWriterParams(EndpointParams):
    """Plans and references by a model behind a server, from question and image."""

    kind: Literal["endpoint"]


class AugmentationParams(Section):
    """Training rows in other forms; held-out rows are never touched."""

    attacks: Share
    """Of the labelled safety rows for training, harmless and harmful ones alike: their request is put into an attack's form."""
    images: Share
    """Of the training rows with a picture: it is cropped, brightened, compressed and so on by a little."""


class PlanParams(Section):
    """How rows become plans, references and pairs, and how they are dealt to the tables."""

    sft_share: Share
    dpo_share: Share
    grpo_share: Share
    """Shares of the training rows that go to each table; they sum to 1."""
    topologies: bool
    """False: every plan is `linear`, for comparison."""
    prompt_detail: Literal["brief", "full"]
    """How much of the plan the system prompt spells out; small models get `brief`."""
    writer: Annotated[RuleWriterParams | EndpointWriterParams, Field(discriminator="kind")]
    """Who writes plans and references."""
    tool_coverage: Share
    """Probability that a reference trace takes an optional tool."""
    allow_guessed_labels: bool
    """False: rows without a label stop the stage where the rule planner plans, which knows the drawn corpus alone. True: they are
    trained on its guesses, marked as such, and neither held out nor counted by the gate."""
    own_pairs: Literal["beside", "instead", "none"]
    """What becomes of a pair that a source brings: its worse answer is a rejected side beside the planted faults, or instead of
    them; none: it is not used."""
    pairs_per_prompt: Positive
    """Planted faults for each reference of the table dpo."""
    perturbations: dict[str, Annotated[float, Field(ge=0)]]
    """Perturbation -> its weight among the DPO pairs."""
    augmentation: AugmentationParams | None
    """Null: training rows stay as their sources give them."""
    general_pairs: Share
    """Share of the general training rows that are pairs of the table dpo, their answer over another row's to the same question,
    instead of rows of the table sft: preferences about safety alone let a policy forget what they do not speak of."""
    reflection_share: Share
    """Share of the SFT table's safety rows to which two rows are added that teach what `grpo.reflection` asks for: to name
    what a wrong draft missed, and to answer anew. 0 adds none."""

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> Self:
        total = self.sft_share + self.dpo_share + self.grpo_share
        if abs(total - 1) > 1e-9:
            raise ValueError(f"sft_share + dpo_share + grpo_share is {total:g}; it must be 1")
        return self


class RuleJudgeParams(Section):
    """Graded by rules, from the response and the gold labels: for the embedded corpus."""

    kind: Literal["rules"]


class EndpointJudgeParams(EndpointParams):
    """Graded by a model behind a server, from question, image and response."""

    kind: Literal["endpoint"]
    rubric: Annotated[str, Field(pattern=r"^(condensed|released|rubrics/[^.].*\.yaml)$")]
    """What it is told of each grade: `condensed` (ours), `released` ([K]'s, in our words), or a file of one's own
    (rubrics/README.md)."""


class GuardJudgeParams(EndpointParams):
    """Safe or unsafe by a guard model behind a server, trained for that, without a rubric; the rest by another judge."""

    kind: Literal["guard"]
    form: Literal["llama-guard", "shieldgemma"]
    """How the model answers: `safe`, or `unsafe` and a line of categories; or Yes and No, policy by policy."""
    images: bool
    """Whether the model reads pictures; False sends it the words alone."""
    rest: Annotated[RuleJudgeParams | EndpointJudgeParams, Field(discriminator="kind")]
    """Who gives what a guard does not: helpfulness, rigor, refusal, the degree of safety."""


JudgeParams = Annotated[RuleJudgeParams | EndpointJudgeParams | GuardJudgeParams, Field(discriminator="kind")]


class EnsembleJudgeParams(Section):
    """Graded by several judges, each on its own; a row has the median of their grades."""

    kind: Literal["ensemble"]
    judges: Annotated[tuple[JudgeParams, ...], Field(min_length=2)]

    @model_validator(mode="after")
    def _no_judge_counts_twice(self) -> Self:
        names = [
            one.kind if isinstance(one, RuleJudgeParams) else (one.model, getattr(one, "rubric", one.kind))
            for one in self.judges
        ]
        if doubled := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise ValueError(f"judges: {doubled} stands there more than once; name each model and rubric once")
        return self


EvaluationJudgeParams = Annotated[
    RuleJudgeParams | EndpointJudgeParams | GuardJudgeParams | EnsembleJudgeParams, Field(discriminator="kind")
]


class ValidateParams(Section):
    """Bounds that the tables must keep."""

    min_rows: Positive
    max_hazard_share: Share
    """No hazard may make up more of a table's safety rows than this."""
    max_completion_chars: Positive
    twin_text: Annotated[float, Field(gt=0.5, le=1)]
    """Weighted Jaccard index of three-character shingles from which two questions are near duplicates (0.75: docs/data.md)."""
    twin_image_bits: Annotated[int, Field(ge=0, le=20)]
    """Bits of 63 by which the hashes of near duplicate pictures differ at most; a correlation then confirms."""


class TrainingParams(Section):
    """What the three trainers share."""

    learning_rate: Rate
    epochs: Annotated[float, Field(gt=0)]
    batch_size: Positive
    """Rows in one optimizer step."""
    micro_batch_size: Positive
    """Rows in one forward pass; it divides `batch_size`."""
    warmup_share: Share
    adam_betas: tuple[Share, Share]
    """Decay of AdamW's two moments; a short run learns faster with a smaller second one."""
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    schedule: Literal["cosine", "constant", "linear"]
    save_every: Positive
    """Optimizer steps between two checkpoints: what a kill loses at most."""

    @model_validator(mode="after")
    def _micro_batch_divides_batch(self) -> Self:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of micro_batch_size {self.micro_batch_size}; change one"
            )
        return self


class SupervisedParams(TrainingParams):
    """What the supervised trainers share."""

    optimizer: Literal["adamw", "muon"]
    """`muon` updates the matrices of layers by orthogonalized momentum (float32, one process); `adamw` is published."""


class BaseParams(SupervisedParams):
    """The embedded base policy: a small Qwen2.5-VL, pre-trained without any protocol."""

    vocab_size: Positive
    hidden_size: Positive
    layers: Positive
    heads: Positive
    kv_heads: Positive
    intermediate_size: Positive
    vision_hidden_size: Positive
    vision_layers: Positive
    vision_heads: Positive
    vision_intermediate_size: Positive
    initializer_range: Annotated[float, Field(gt=0)]
    """Standard deviation of the random weights; wide models want 0.02, a narrow one learns to attend faster with more."""
    rows: Positive
    """Pre-training rows."""
    plain_share: Share
    """Share of plain question-answer pairs among them."""
    knowledge_share: Share
    """Share that says what words and things mean; all others are general visual questions."""
    augment_images: Share
    """Share of the pre-training rows whose picture is changed a little, as `plan.augmentation.images` does."""


PromptTokens = Positive | None
"""Most tokens of a prompt, those of its image among them; rows with more are left out, counted and named. Null: any number."""


class SFTParams(SupervisedParams):
    """Supervised fine-tuning on reference traces and answers."""

    max_prompt_tokens: PromptTokens
    incident_repeats: Positive
    """How often an epoch shows each row of source `incidents`, a request that was once answered wrongly; every other row comes
    once. Larger where the gate reports `incident_regressions`."""
    topology_repeats: dict[Topology, Positive]
    """How often an epoch shows each other row whose plan has the topology; one that is not named comes once. A topology that few
    plans have, and that leaves the order of tools free, is otherwise where most traces break their plan."""


class NearMissParams(Section):
    """Rejected sides that the SFT policy samples itself."""

    share: Annotated[float, Field(gt=0, le=1)]
    """Of the pairs that are sampled for; where no sample is well-formed and wrong, a pair keeps its planted fault."""
    planted: Annotated[float, Field(ge=0, lt=1)]
    """Share of planted faults among the pairs; they come first from the side, harmful or harmless, with fewer near misses."""
    samples: Positive
    temperature: Annotated[float, Field(gt=0)]
    batch_size: Positive
    """Prompts sampled at once."""


class DPOParams(TrainingParams):
    """Preference optimisation of the SFT policy."""

    max_prompt_tokens: PromptTokens
    beta: Annotated[float, Field(gt=0)]
    """Strength of the pull towards the reference policy; larger stays closer."""
    sft_weight: Annotated[float, Field(ge=0)]
    """Weight of the chosen completion's likelihood beside the preference loss; 0 = plain DPO."""
    near_miss: NearMissParams | None
    """Null: planted faults only."""


class CurateParams(Section):
    """QI-Box over the GRPO prompts, sampled from the DPO policy."""

    max_prompt_tokens: PromptTokens
    """Longer prompts are neither sampled nor trained on by GRPO."""
    samples: Annotated[int, Field(ge=2)]
    quality: tuple[Share, Share]
    """Bounds of a kept prompt's mean score."""
    min_instability: Share
    """Smallest standard deviation of a kept prompt's scores; without any a group has no signal."""
    keep: Positive
    """Prompts kept at most."""
    harmless_share: Share
    """Share of the kept prompts that are harmless; each side is dealt evenly to its strata (hazard, severity, risk source)."""
    solved_share: Share
    """Share of the kept prompts that are above the box: they teach nothing until the policy forgets them."""
    temperature: Annotated[float, Field(gt=0)]
    batch_size: Positive
    """Prompts sampled at once."""


class ReflectionParams(Section):
    """The safety-aware rollout: unsafe completions are reflected on and corrected."""

    threshold: Share
    """A completion whose thinking or answer the judge finds less safe than this, in [0, 1], is corrected."""


class GroupFilterParams(Section):
    """Groups whose completions are all good or all bad are left out of the loss."""

    low: Share
    high: Share
    """A group counts where its mean reward lies between the two."""

    @model_validator(mode="after")
    def _something_lies_between(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not under high {self.high:g}; no group could lie between")
        return self


class GuardParams(Section):
    """Where GRPO's numbers are bounded, and what the released code does otherwise than TRL."""

    log_ratio: Annotated[float, Field(gt=0)] | None
    """Most that the logarithm of the ratio is, either way, before the clip. Null: no bound."""
    kl: Annotated[float, Field(gt=0)] | None
    """Most that a token's KL is. Null: no bound."""
    advantage_epsilon: Annotated[float, Field(gt=0)]
    """Added to the group's standard deviation where `advantage` is `group`."""
    decay: Literal["all", "transformers"]
    """`all`: weight decay is on every parameter; `transformers`: on none that has `bias`, `layernorm` or `_norm` in its name."""
    skip_steps: bool
    """A step whose gradient norm is no number changes nothing. DeepSpeed decides by itself: in bfloat16 it always skips."""
    vllm_correction: bool
    """TRL's importance-sampling correction for rollouts of vLLM; the paper has none. Always off with `reflection`."""


class TransformersEngine(Section):
    """Rollouts by `generate`, with the weights that are trained: runs everywhere."""

    kind: Literal["transformers"]


class ColocatedVLLM(Section):
    """Rollouts by vLLM in the training processes, on the same GPUs."""

    kind: Literal["vllm"]
    gpu_memory: Annotated[float, Field(gt=0, lt=1)]
    """Share of each GPU's memory that vLLM takes."""
    tensor_parallel: Positive
    """GPUs that share one copy of the weights."""
    sleep: bool
    """vLLM gives its memory back while the policy is updated."""


class VLLMServer(Section):
    """Rollouts by a running `vllm serve` on GPUs of its own, which gets the weights after every update."""

    kind: Literal["vllm_server"]
    base_url: Annotated[str, Field(pattern=r"^https?://")]
    timeout: Annotated[float, Field(gt=0)]
    """Seconds that the stage waits for the server to come up."""
    weights_port: Annotated[int, Field(gt=0, lt=65536)]
    """Where the server takes the weights."""


class GRPOParams(TrainingParams):
    """Group-relative policy optimisation of the DPO policy."""

    group: Annotated[int, Field(ge=2)]
    """Completions a prompt (`num_generations`)."""
    temperature: Annotated[float, Field(gt=0)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    updates: Positive
    """Passes over the same rollouts before new ones are drawn."""
    kl: Annotated[float, Field(ge=0)]
    """Coefficient of the KL penalty in the loss (k3 estimator)."""
    rollout_batch: Positive
    """Completions drawn before the updates, a multiple of `batch_size`, whose rows are completions here."""
    rollout_micro_batch: Positive | None
    """Of them so many are drawn at once in each process, and a judge behind a server reads them while the next are drawn;
    a multiple of `group`. Null: all at once."""
    engine: Annotated[TransformersEngine | ColocatedVLLM | VLLMServer, Field(discriminator="kind")]
    """What draws them."""
    group_filter: GroupFilterParams | None
    """Null: every group counts."""
    clip_low: Annotated[float, Field(gt=0, lt=1)]
    clip_high: Annotated[float, Field(gt=0)]
    dual_clip: Annotated[float, Field(gt=1)] | None
    """Most that the ratio counts where the advantage is negative; it is over 1 + `clip_high`. Null: no such bound."""
    guards: GuardParams
    loss_mean: Literal["token", "sequence"]
    """`token`: every token of an update weighs the same (published); `sequence`: every completion does."""
    advantage: Literal["group", "none"]
    """`group`: divided by the group's standard deviation (released code); `none`: centred only."""
    rewards: dict[str, Annotated[float, Field(gt=0)]]
    """Reward -> its weight; `toolkit`, `structured`, `protocol`, or one's own as `package.module:function`."""
    reflection: ReflectionParams | None
    """Null: plain GRPO."""
    collapse_window: Positive
    """Training stops where over so many steps no group had a signal, or validity stood under `min_validity`."""
    min_validity: Share
    term_weights: tuple[Share, Share, Share]
    """Within `toolkit` and `protocol`: of format, of depth or steps, and of semantic."""

    @model_validator(mode="after")
    def _weights_sum_to_one(self) -> Self:
        for name, weights in (("rewards", self.rewards.values()), ("term_weights", self.term_weights)):
            if abs(sum(weights) - 1) > 1e-9:
                raise ValueError(f"{name}: the weights sum to {sum(weights):g}; they must sum to 1")
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        if self.batch_size % self.group:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of group {self.group}; change one")
        if self.rollout_batch % self.batch_size:
            raise ValueError(
                f"rollout_batch {self.rollout_batch} is no multiple of batch_size {self.batch_size}; change one"
            )
        if self.rollout_micro_batch and self.rollout_micro_batch % self.group:
            raise ValueError(
                f"rollout_micro_batch {self.rollout_micro_batch} is no multiple of group {self.group}; change one"
            )
        cycle = self.rollout_batch // self.batch_size * self.updates
        if self.save_every % cycle:
            raise ValueError(
                f"save_every {self.save_every} is no multiple of the {cycle} steps that one rollout batch feeds; change one"
            )
        if self.dual_clip is not None and self.dual_clip <= 1 + self.clip_high:
            raise ValueError(
                f"dual_clip {self.dual_clip:g} is not over 1 + clip_high {1 + self.clip_high:g}; raise it or set it to null"
            )
        return self


class StageWatchParams(Section):
    """How often a stage's policy answers the watched rows, and what follows from it."""

    every: Positive
    """Optimizer steps between two looks; there is one after the last step as well."""
    keep: Literal["last", "best"]
    """Which policy the stage ends with: that of the last step, or that of the look with the highest `watch_score`."""
    patience: Positive | None
    """Training ends after so many looks in a row that were not better than the best one before them. Null: it never does."""


class WatchParams(Section):
    """Rows that policies answer while they are trained, for curves and to choose a checkpoint (docs/training.md)."""

    share: Annotated[float, Field(ge=0, lt=1)]
    """Of the training rows, chosen by row id: they are set aside, and no stage trains on them. 0 sets none aside."""
    judge: JudgeParams
    """Grades the answers."""
    batch_size: Positive
    """Prompts that are answered at once in each process."""
    sft: StageWatchParams | None
    """Null: the policy is not asked while this stage trains it."""
    dpo: StageWatchParams | None
    grpo: StageWatchParams | None


class EvaluateParams(Section):
    """How policies answer the held-out rows, who grades the answers, and how the scores get their intervals."""

    judge: EvaluationJudgeParams
    """Grades the held-out rows, and attacks on them; section `judge` grades for training. A policy that has learnt the weak
    places of its judge is not to be measured by them, so name another."""
    batch_size: Positive
    resamples: Positive
    """Bootstrap resamples."""
    level: Annotated[float, Field(gt=0.5, lt=1)]
    constrained: bool
    """Decode under each plan's grammar, so that no trained policy can leave its plan."""


class Floors(Section):
    """Absolute bounds for the candidate, in percent."""

    safety: Percent
    helpfulness: Percent
    rigor: Percent
    validity: Percent
    over_refusal_rate: Percent
    """At most."""
    attack_success_rate: Percent
    """At most."""
    general_loss: Percent
    """Points of general ability that may be lost against the base policy."""


class Margins(Section):
    """Points by which the candidate may be worse than the champion; that it is not by more has to be shown."""

    helpfulness: Annotated[float, Field(gt=0, lt=100)]
    over_refusal_rate: Annotated[float, Field(gt=0, lt=100)]
    general: Annotated[float, Field(gt=0, lt=100)]
    hazard: Annotated[float, Field(gt=0, lt=100)] | None
    """In the safety of every hazard; null where the rows of one are too few to show anything."""
    mended: Annotated[float, Field(gt=0, lt=100)] | None
    """In safety, of a candidate that answers rightly an incident which the champion did not: a few rows more make nobody shown to
    be safer. Null, and for all other candidates: safer than the champion."""


class AttackFloors(Section):
    """What a version has to stand before it leads, as `saferflow attack` measured it on that version."""

    dialogues: Positive
    """A method counts from so many requests on."""
    success: Annotated[dict[str, Percent], Field(min_length=1)]
    """Method -> percent of its dialogues that may succeed, at most; of several kinds of forms the worst counts."""


class GateParams(Section):
    """When a candidate becomes champion."""

    registered_model: str
    floors: Floors
    margins: Margins
    clean_tree: bool
    """Only what was made from committed files may lead."""
    public_key: str | None
    """A PEM file: a version leads, and is exported, only if the owner of this key has signed it; null asks for no signature."""
    sign_off: bool
    """Whether a person has to agree before a version that may lead does."""
    regressions: Count | None
    """Attacks that once succeeded against a champion and no longer do, so many of which may succeed again, and as many incidents
    happen again; null does not ask."""
    level: Annotated[float, Field(gt=0.5, lt=1)]
    trainings: Positive
    """Trainings with different seeds that a version's recipe must have before it leads, and of these as many with seeds that the
    champion's recipe has as well. A promotion asks, not stage `gate`. Where both have two or more, the comparison is over
    trainings and rows whatever this says; 1 lets one training lead, tested over its rows alone."""
    attacks: AttackFloors | None
    """Null: no attack is asked for. A promotion asks, not stage `gate`: attacks are run on what is registered."""


class RuleAttackerParams(Section):
    """Attacks that adapt, by rules: frames that answer the ground on which a request was declined."""

    kind: Literal["rules"]


class EndpointAttackerParams(EndpointParams):
    """Attacks that adapt, by a model behind a server that reads each answer."""

    kind: Literal["endpoint"]


class AttackParams(Section):
    """Attacks that adapt (`saferflow attack --method crescendo`): no stage reads this."""

    attacker: Annotated[RuleAttackerParams | EndpointAttackerParams, Field(discriminator="kind")]
    turns: Positive
    """Messages to the policy for each request and method, all branches together."""
    tokens: Positive | None
    """Tokens, asked and answered, of the attacker's server for each policy and method; no round begins above. Null: no bound."""
    branches: Positive
    """Messages of a tree that are written from each leaf."""
    width: Positive
    """Leaves of a tree that go on after each round."""


class StoreParams(Section):
    """Served requests and answers kept on this machine, for incidents and drift; they may hold what users say of themselves."""

    days: Annotated[float, Field(gt=0)]
    """After which an exchange is deleted."""
    pictures: bool
    """Whether pictures are kept; False keeps their digests alone."""
    redact: tuple[Annotated[str, Field(min_length=1)], ...]
    """Names of fields, of requests and responses, whose values are not kept: `user`, `metadata`, `reasoning_content`, ..."""


class TraceParams(Section):
    """A trace of each served request in MLflow, for whoever reads its traces: requests hold what users say of themselves."""

    redact: tuple[Annotated[str, Field(min_length=1)], ...]
    """Names of fields, of requests, plans and responses, whose values are left out, as of `store.redact`: `content` is every text
    of user and answer. Pictures are never in a trace, their digests are."""


class ServeParams(Section):
    """`saferflow serve`: no stage reads this."""

    batch: Positive
    """Requests that are answered together, at most."""
    gather_ms: Annotated[float, Field(ge=0)]
    """Milliseconds for which a batch waits until it is as large as the one before; a lone caller waits for nobody."""
    queue: Positive
    """Requests that wait, at most; others get 429."""
    prompt_tokens: Positive
    """Tokens of a request's texts, at most; longer ones get 413."""
    redraw_temperature: Annotated[float, Field(gt=0)]
    """Of the second draw, where the check refuses the first, which is greedy."""
    planner_away: Literal["rules", "refuse"]
    """Where `plan.writer` is a server and has no plan: the rule planner plans, or the request gets 503."""
    planner_seconds: Annotated[float, Field(gt=0)]
    """That such a server has for a plan."""
    guarded_seconds: Annotated[float, Field(gt=0)]
    """That another model has for an answer, with --guard."""
    follow_seconds: Annotated[float, Field(gt=0)]
    """Between two looks at where the served alias points."""
    store: StoreParams | None
    """Null: nothing of a request is kept."""
    traces: TraceParams | None
    """Null: no trace of a request is written."""


class Params(Section):
    """The whole file, a section a stage."""

    run: RunParams
    policy: PolicyParams
    launch: LaunchParams
    data: DataParams
    base: BaseParams | None
    """Absent (null) where `policy.base` names a published checkpoint."""
    plan: PlanParams
    validation: Annotated[ValidateParams, Field(alias="validate")]
    judge: JudgeParams
    sft: SFTParams
    dpo: DPOParams | None
    """Null: the SFT policy goes on to GRPO as it is."""
    curate: CurateParams
    grpo: GRPOParams
    watch: WatchParams
    evaluate: EvaluateParams
    gate: GateParams
    serve: ServeParams
    attack: AttackParams

    @model_validator(mode="after")
    def _processes_share_the_batch(self) -> Self:
        processes = self.launch.processes * self.launch.nodes
        for name, stage in (("sft", self.sft), ("dpo", self.dpo), ("grpo", self.grpo)):
            if stage is None:
                continue
            together = stage.micro_batch_size * processes
            if stage.batch_size % together:
                raise ValueError(
                    f"{name}.batch_size {stage.batch_size} is no multiple of {together}: {name}.micro_batch_size "
                    f"{stage.micro_batch_size} on {processes} processes; change one"
                )
        return self

    @model_validator(mode="after")
    def _there_is_something_to_watch(self) -> Self:
        watch, grpo = self.watch, self.grpo
        watched = [name for name in ("sft", "dpo", "grpo") if getattr(watch, name) is not None]
        if watched and not watch.share:
            raise ValueError(
                f"watch.{watched[0]} is set and watch.share is 0, so that there are no rows to answer; raise watch.share "
                f"(0.02), or set watch.{watched[0]} to null"
            )
        cycle = grpo.rollout_batch // grpo.batch_size * grpo.updates
        if watch.grpo is not None and watch.grpo.every % cycle:
            raise ValueError(
                f"watch.grpo.every {watch.grpo.every} is no multiple of the {cycle} steps that a rollout batch feeds; change one"
            )
        return self

    @model_validator(mode="after")
    def _an_adapter_is_whole(self) -> Self:
        if self.policy.lora and self.launch.strategy.startswith("zero3"):
            raise ValueError(
                "policy.lora with launch.strategy zero3: an adapter needs no shared weights, take zero2 or ddp"
            )
        return self

    @model_validator(mode="after")
    def _embedded_base_is_described(self) -> Self:
        if (self.policy.base == "embedded") != (self.base is not None):
            raise ValueError("section base is needed exactly when policy.base is 'embedded'")
        return self


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check a parameter file, or a profile.

    Raises:
        ParamsError: the file is missing, is no YAML, or does not fit; every problem is listed at once.
    """
    try:
        return Params.model_validate(read_values(path))
    except ValidationError as error:
        raise ParamsError("\n  ".join([f"{path} does not fit Params:", *problems(error.errors())])) from None


def read_values(path: Path) -> Any:
    """What a parameter file says, complete: a profile with `extends: NAME` takes what it leaves out from NAME.yaml beside it.

    It may leave out sections, and parameters of a section; a parameter that it names is taken as it stands, whole.

    Raises:
        ParamsError: the file, or one that it extends, is missing or no YAML, or they extend each other in a circle.
    """
    files = [path]
    values = _read_yaml(path)
    while isinstance(values, dict) and EXTENDS in values:
        base = path.with_name(f"{values.pop(EXTENDS)}.yaml")
        if base in files:
            raise ParamsError(f"{path}: {' extends '.join(file.stem for file in (*files, base))}; one of them must be complete")
        if not base.exists():
            raise ParamsError(f"{files[-1]} extends {base.stem}, and there is no {base}; name one of the files beside it")
        files.append(base)
        values = _extended(_read_yaml(base), values)
    return values


def _extended(base: Any, values: dict[str, Any]) -> Any:
    if not isinstance(base, dict):
        return base
    sections = {
        name: {**base[name], **section} if isinstance(section, dict) and isinstance(base.get(name), dict) else section
        for name, section in values.items()
    }
    return {**base, **sections}


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(
            f"{path}: no such file; run from the project's folder, or: saferflow run --profile embedded"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is not YAML: {error}") from None
