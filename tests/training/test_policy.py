"""Policies: the embedded model and its processor, on disk and back, and what they say."""

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from saferflow.data.rows import PromptRow, turns_to_json
from saferflow.data.scenes.corpus import general_rows
from saferflow.errors import PolicyError, TrainingError
from saferflow.params import load_params
from saferflow.training import policy as policies
from saferflow.training.conversation import chat, prompt
from saferflow.training.embedded import build_model, build_processor, train_tokenizer
from saferflow.training.examples import grpo_dataset
from saferflow.training.generate import Prompt, complete
from saferflow.training.policy import load_model, load_processor, save_policy, source
from saferflow.training.preflight import fitting, prompt_tokens, refuse_cut_off

ROOT = Path(__file__).parents[2]
MICRO = load_params(ROOT / "profiles" / "micro.yaml")
ROWS = list(general_rows(24, 1, "train"))


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    tokenizer = train_tokenizer([text for row in ROWS for text in (row.question, row.answer)], MICRO.base.vocab_size)
    model = build_model(MICRO.base, tokenizer, seed=1)
    processor = build_processor(tokenizer, MICRO.policy)
    save_policy(folder, model, processor)
    return folder, model, processor


def test_the_embedded_policy_is_a_qwen_of_at_most_eight_million_parameters():
    params = load_params(ROOT / "params.yaml")
    tokenizer = train_tokenizer(["words"], params.base.vocab_size)
    model = build_model(params.base, tokenizer, seed=1)
    words = (params.base.vocab_size - len(tokenizer)) * params.base.hidden_size
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert model.num_parameters() + words <= 8_000_000


def test_equal_seeds_build_equal_weights(policy):
    _, model, processor = policy
    again = build_model(MICRO.base, processor.tokenizer, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_a_policy_reads_back_as_it_was_written(policy):
    folder, model, processor = policy
    asked = [Prompt("", row.question, row.image) for row in ROWS[:4]]
    said = list(complete(model, processor, asked, batch_size=4, max_tokens=8))
    loaded, reloaded = load_model(folder, MICRO.policy), load_processor(folder, MICRO.policy)
    assert list(complete(loaded, reloaded, asked, batch_size=4, max_tokens=8)) == said


@pytest.mark.parametrize(
    ("dtype", "installed", "expected"),
    [("bfloat16", True, ["flash_attention_2"]), ("float32", True, []), ("bfloat16", False, [])],
)
def test_the_tower_takes_flash_attention_where_it_is_installed_and_has_the_dtype(
    monkeypatch, dtype, installed, expected
):
    names = []
    parts = {"model.visual": SimpleNamespace(set_attn_implementation=names.append)}
    model = SimpleNamespace(config=SimpleNamespace(model_type="qwen2_5_vl"), get_submodule=parts.__getitem__)
    monkeypatch.setattr(policies, "is_flash_attn_2_available", lambda: installed)
    policies.attend_windows_at_once(model, MICRO.policy.model_copy(update={"dtype": dtype}))
    assert names == expected


def test_a_policy_is_saved_as_safetensors_under_the_published_processors_name(policy):
    folder, _, _ = policy
    assert (folder / "model.safetensors").exists()
    assert not list(folder.rglob("*.bin"))
    assert json.loads((folder / "processor_config.json").read_text())["processor_class"] == "Qwen2_5_VLProcessor"


def test_rows_with_and_without_an_image_share_a_batch(policy):
    _, model, processor = policy
    asked = [Prompt("", ROWS[0].question, ROWS[0].image), Prompt("Be brief.", "What now?", None)]
    together = list(complete(model, processor, asked, batch_size=2, max_tokens=6))
    alone = [said for one in asked for said in complete(model, processor, [one], batch_size=1, max_tokens=6)]
    assert together == alone


def test_a_prompt_reads_as_qwens_chat_format(policy):
    _, _, processor = policy
    image = object()
    text = processor.apply_chat_template([chat("S", "Q?", image)], tokenize=False, add_generation_prompt=True)
    assert text == [
        "<|im_start|>system\nS<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Q?<|im_end|>\n"
        "<|im_start|>assistant\n"
    ]


def test_a_prompt_without_a_plan_has_no_system_turn():
    assert [turn["role"] for turn in prompt("", "Q?")] == ["user"]


def test_sampling_is_repeatable_by_its_seed(policy):
    _, model, processor = policy
    asked = [Prompt("", ROWS[0].question, ROWS[0].image)]

    def drawn(seed):
        return list(
            complete(model, processor, asked, batch_size=1, max_tokens=8, samples=3, temperature=1.0, seed=seed)
        )

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_a_pointer_folder_stands_for_the_checkpoint_that_it_names(tmp_path):
    (tmp_path / "SOURCE").write_text("org/model\n", encoding="utf-8")
    assert source(tmp_path) == ("org/model", None)
    (tmp_path / "SOURCE").write_text("org/model\nabc\n", encoding="utf-8")
    assert source(tmp_path) == ("org/model", "abc")
    (tmp_path / "own").mkdir()
    assert source(tmp_path / "own") == (str(tmp_path / "own"), None)


def test_a_missing_folder_is_never_looked_for_on_a_hub(tmp_path):
    with pytest.raises(PolicyError, match="no such folder"):
        source(tmp_path / "none")


@pytest.mark.parametrize("load", [load_model, load_processor])
def test_a_folder_without_a_policy_says_what_to_do(tmp_path, load):
    with pytest.raises(PolicyError, match="run `saferflow run`"):
        load(tmp_path, MICRO.policy)


def test_grpo_rows_carry_their_id_to_the_reward():
    from saferflow.data.rows import PromptRow

    rows = [PromptRow("a", "s", "safety", ROWS[0].image, "sys", "q", "", "")]
    dataset = grpo_dataset(rows)
    assert dataset["row"] == ["a"]
    assert dataset[0]["images"][0].size == (112, 112)


def test_another_kind_of_model_is_named(policy, tmp_path):
    shutil.copytree(policy[0], tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "other" / "config.json").write_text(json.dumps({**config, "model_type": "llama"}), encoding="utf-8")
    with pytest.raises(PolicyError, match=r"is a llama; set policy\.base .* kind that works: qwen2_5_vl \(Qwen2\.5-VL\)"):
        load_model(tmp_path / "other", MICRO.policy)


def test_an_adapter_is_no_policy(policy, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(PolicyError, match="holds an adapter, not a whole policy; merge it"):
        load_model(tmp_path, MICRO.policy)


def test_a_tokenizer_without_the_needed_tokens_is_named(policy, tmp_path):
    shutil.copytree(policy[0], tmp_path / "other")
    for path in (tmp_path / "other").glob("*.json"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("<|vision_start|>", "<|no_start|>"), encoding="utf-8")
    with pytest.raises(PolicyError, match=r"the tokenizer lacks <\|vision_start\|>; take"):
        load_processor(tmp_path / "other", MICRO.policy)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(policy):
    with pytest.raises(PolicyError, match="no GPU is to be seen"):
        load_model(policy[0], MICRO.policy.model_copy(update={"device": "cuda"}))


def test_completions_that_the_policy_could_not_end_are_counted_and_the_longest_named(policy):
    tokenizer = policy[2].tokenizer
    rows = [("short", "a"), ("long", "word " * 60), ("longest", "word " * 90)]
    tight = MICRO.policy.model_copy(update={"max_completion_tokens": 20, "max_cut_share": 0.5})
    with pytest.raises(TrainingError, match=r"sft: 2 of 3 completions .* row longest, has"):
        refuse_cut_off("sft", tokenizer, rows, tight)
    refuse_cut_off("sft", tokenizer, rows, tight.model_copy(update={"max_cut_share": 0.7}))
    refuse_cut_off("sft", tokenizer, rows[:1], tight)


def test_earlier_turns_stand_between_with_the_image_in_the_first(policy):
    _, _, processor = policy
    asked = chat("S", "And now?", object(), [("Q?", "A."), ("Why?", "B.")])
    text = processor.apply_chat_template([asked], tokenize=False, add_generation_prompt=True)[0]
    places = [text.index(said) for said in ("system\nS<", "<|vision_start|>", "Q?", "A.", "Why?", "B.", "And now?")]
    assert places == sorted(places)
    assert text.count("<|image_pad|>") == 1


def prompts():
    """With a picture and without, of one turn and of two."""
    picture = next(iter(general_rows(1, 1, "train"))).image
    earlier = turns_to_json([("Q?", "A.")])
    columns = [("a", None, ""), ("b", picture, ""), ("c", picture, earlier), ("d", None, earlier)]
    return [
        PromptRow(name, "", "safety", image, "S", "Q?\n" * bool(turns) + "What is it?", "", "", turns)
        for name, image, turns in columns
    ]


def test_tokens_of_a_prompt_are_those_that_the_policy_reads(policy):
    processor = policy[2]
    expected = []
    for row in prompts():
        asked = chat(row.system, row.last_question, row.image, row.turns)
        text = processor.apply_chat_template([asked], tokenize=False, add_generation_prompt=True)
        images = [Image.open(io.BytesIO(row.image))] if row.image else None
        expected.append(len(processor(images=images, text=text)["input_ids"][0]))
    assert prompt_tokens(processor, prompts()) == expected


def test_prompts_of_too_many_tokens_are_left_out_counted_and_named(policy, capsys):
    rows, processor = prompts(), policy[2]
    tokens = dict(zip("abcd", prompt_tokens(processor, rows), strict=True))
    assert tokens["a"] < tokens["b"] < tokens["d"] < tokens["c"]
    kept = fitting("sft", "sft.max_prompt_tokens", processor, rows, tokens["b"])
    assert [row.id for row in kept] == ["a", "b"]
    named = f"c ({tokens['c']:,}), d ({tokens['d']:,}); they are left out"
    counted = f"sft: 2 of 4 prompts have more tokens than sft.max_prompt_tokens ({tokens['b']:,}): {named}\n"
    assert capsys.readouterr().out == counted
    assert fitting("sft", "sft.max_prompt_tokens", processor, rows, tokens["c"]) == rows
    assert fitting("sft", "sft.max_prompt_tokens", processor, rows, None) == rows
    with pytest.raises(TrainingError, match=r"4 of 4 .*None is left: raise sft.max_prompt_tokens"):
        fitting("sft", "sft.max_prompt_tokens", processor, rows, 1)
