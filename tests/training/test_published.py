"""Checkpoints as they are published: every file of the flat layout is read, and what is not whole is refused before training."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer
from transformers.models.auto.video_processing_auto import get_video_processor_config

from saferflow.errors import PolicyError
from saferflow.params import load_params
from saferflow.planner.rules import plan_for
from saferflow.training import constrained
from saferflow.training.generate import Prompt, complete
from saferflow.training.policy import load_model, load_processor, save_policy
from saferflow.training.weights import INDEX, _accounted
from tests.training.published import TEMPLATE, TEXT_ONLY, published

ROOT = Path(__file__).parents[2]
VISION = ROOT / ".venv" / "vision"
POLICY = load_params(ROOT / "profiles" / "micro.yaml").policy
WIDE = POLICY.model_copy(update={"min_pixels": 3136, "max_pixels": 50_176})
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32\nsize 3985\n"
SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return published(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def copy(checkpoint, tmp_path):
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def edit(file: Path, **changes) -> None:
    """Change fields of a JSON file; None takes a field out."""
    content = json.loads(file.read_text(encoding="utf-8")) | changes
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}), encoding="utf-8")


def rename(folder: Path, name) -> None:
    """Give the tensors other names, in both files and the index; a name that is None goes."""
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    placed = {}
    for file in sorted(set(index["weight_map"].values())):
        weights = {name(old): value for old, value in load_file(folder / file).items() if name(old) is not None}
        save_file(weights, folder / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(weights, file)
    edit(folder / INDEX, weight_map=placed)


def grid(processor, size: tuple[int, int]) -> list[int]:
    return processor.image_processor(Image.new("RGB", size), return_tensors="pt")["image_grid_thw"][0].tolist()


def test_base_sft_and_later_policies_see_an_image_in_the_same_size(checkpoint, tmp_path):
    seen = []
    for stage in ("base", "sft", "dpo"):
        folder = checkpoint if stage == "base" else tmp_path / stage
        processor = load_processor(folder, WIDE)
        seen.append([grid(processor, size) for size in ((400, 300), (10, 10), (90, 120))])
        assert processor.image_processor.get_number_of_image_patches(300, 400) == seen[-1][0][1] * seen[-1][0][2]
        save_policy(tmp_path / {"base": "sft", "sft": "dpo", "dpo": "grpo"}[stage], load_model(folder, WIDE), processor)
    assert seen[0] == seen[1] == seen[2]
    _, height, width = seen[0][0]
    assert height * width * 14**2 <= 50_176 < (height + 2) * (width + 2) * 14**2  # as large as the bound allows


def test_the_bounds_of_the_params_win_over_a_file_that_has_them_in_both_places(copy):
    edit(copy / "preprocessor_config.json", size={"shortest_edge": 1, "longest_edge": 12_845_056})
    tight = POLICY.model_copy(update={"min_pixels": 784, "max_pixels": 3136})
    assert grid(load_processor(copy, tight), (400, 300)) in ([1, 2, 4], [1, 4, 4])
    edit(copy / "preprocessor_config.json", min_pixels=None)
    assert grid(load_processor(copy, tight), (400, 300)) in ([1, 2, 4], [1, 4, 4])


def test_the_flat_configuration_is_read_whole(checkpoint):
    model = load_model(checkpoint, POLICY)
    text = model.config.text_config
    assert (text.hidden_size, text.num_hidden_layers, text.rope_parameters["mrope_section"]) == (32, 2, [2, 3, 3])
    assert text.rope_parameters["rope_theta"] == 1_000_000.0
    assert model.config.vision_config.fullatt_block_indexes == [1]
    assert model.lm_head.weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_every_tensor_is_loaded_and_counted_and_comes_back_after_a_save(tied, tmp_path, capsys):
    folder = published(tmp_path / "hub", tied=tied)
    model = load_model(folder, POLICY)
    count = len(model.state_dict())
    assert f"{count} of {count} tensors loaded" in capsys.readouterr().err
    held = {
        name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()
    }  # under the published names
    assert torch.equal(model.model.visual.blocks[0].attn.qkv.weight, held["visual.blocks.0.attn.qkv.weight"].float())
    assert torch.equal(model.get_input_embeddings().weight, held["model.embed_tokens.weight"].float())
    assert torch.equal(model.lm_head.weight, held["model.embed_tokens.weight" if tied else "lm_head.weight"].float())
    save_policy(tmp_path / "again", model, load_processor(folder, POLICY))
    again = load_model(tmp_path / "again", POLICY).state_dict()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())


def test_names_of_transformers_5_are_read_as_well(copy):
    wanted = load_model(copy, POLICY).state_dict()
    new = {"visual.": "model.visual.", "model.": "model.language_model."}
    rename(copy, lambda name: next(to + name.removeprefix(old) for old, to in new.items() if name.startswith(old)))
    assert all(torch.equal(value, wanted[name]) for name, value in load_model(copy, POLICY).state_dict().items())


def test_a_template_apart_is_the_policys(checkpoint):
    processor = load_processor(checkpoint, POLICY)
    assert AutoTokenizer.from_pretrained(checkpoint).chat_template is None
    assert processor.chat_template == processor.tokenizer.chat_template == TEMPLATE


def test_a_template_apart_wins_over_the_tokenizers(copy):
    edit(copy / "tokenizer_config.json", chat_template=TEXT_ONLY)
    assert load_processor(copy, POLICY).chat_template == TEMPLATE


def test_a_template_of_the_tokenizer_alone_is_read(copy):
    (copy / "chat_template.json").unlink()
    edit(copy / "tokenizer_config.json", chat_template=TEMPLATE)
    assert load_processor(copy, POLICY).chat_template == TEMPLATE


def test_constrained_decoding_does_not_take_the_files_sampling(checkpoint, tmp_path, monkeypatch):
    model, processor = load_model(checkpoint, POLICY), load_processor(checkpoint, POLICY)
    monkeypatch.setattr(constrained, "longest", lambda plan: 23)
    asked, plan = [Prompt("", "What now?", None)], plan_for("What now?", None)

    def said():
        return list(complete(model, processor, asked, batch_size=1, max_tokens=8, plans=[plan]))

    model.generation_config.repetition_penalty = 5.0
    with_penalty = said()
    model.generation_config.repetition_penalty = 1.0
    assert said() == with_penalty
    save_policy(tmp_path / "saved", model, processor)  # transformers refuses settings that contradict each other


PREFIXES = ["module.", "base_model.model.", "_orig_mod.", "module.base_model.model.", "transformer."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_names_of_what_held_the_model_are_refused(copy, prefix):
    rename(copy, lambda name: prefix + name)
    with pytest.raises(
        PolicyError,
        match=r"0 of the model's 57 tensors .* 57 are missing: .* 56 have names .*(take 'm|take 'b|take '_|Save)",
    ):
        load_model(copy, POLICY)


def test_a_missing_tensor_is_counted_and_named(copy):
    rename(copy, lambda name: None if name.endswith("layers.0.self_attn.q_proj.weight") else name)
    with pytest.raises(
        PolicyError, match=r"56 of the model's 57 tensors .* 1 are missing: \S*layers\.0\.self_attn\.q_proj"
    ):
        load_model(copy, POLICY)


def test_a_surplus_tensor_is_counted_and_named(copy):
    rename(copy, lambda name: "foo.weight" if name == "visual.patch_embed.proj.weight" else name)
    with pytest.raises(
        PolicyError, match=r"1 are missing: \S*patch_embed.*; 1 have names that it does not know: foo\.weight"
    ):
        load_model(copy, POLICY)


def test_an_adapter_among_the_tensors_is_named(copy):
    rename(copy, lambda name: name.replace("layers.0.self_attn.q_proj", "layers.0.self_attn.q_proj.base_layer"))
    with pytest.raises(PolicyError, match="Merge the adapter"):
        load_model(copy, POLICY)


def test_another_shape_is_counted_and_named(copy):
    edit(copy / "config.json", intermediate_size=40)
    with pytest.raises(
        PolicyError, match=r"6 have another shape: .*\(48, 32\) in the file, \(40, 32\) in the model.*config\.json"
    ):
        load_model(copy, POLICY)


def test_a_head_that_the_configuration_ties_to_something_else_is_refused(tmp_path):
    folder = published(tmp_path, tied=False)
    edit(folder / "config.json", tie_word_embeddings=True)
    with pytest.raises(PolicyError, match="set tie_word_embeddings to false"):
        load_model(folder, POLICY)


def test_a_head_that_is_missing_names_the_switch(copy):
    edit(copy / "config.json", tie_word_embeddings=False)
    with pytest.raises(PolicyError, match=r"1 are missing: lm_head\.weight\. Set tie_word_embeddings to true"):
        load_model(copy, POLICY)


def test_a_tied_head_that_is_written_twice_is_no_fault(copy):
    shard = load_file(copy / SHARD)
    embedding = {n: v for f in copy.glob("*.safetensors") for n, v in load_file(f).items()}["model.embed_tokens.weight"]
    save_file(shard | {"lm_head.weight": embedding.clone()}, copy / SHARD, metadata={"format": "pt"})
    index = json.loads((copy / INDEX).read_text(encoding="utf-8"))["weight_map"]
    edit(copy / INDEX, weight_map=index | {"lm_head.weight": SHARD})
    assert load_model(copy, POLICY).lm_head.weight.shape == embedding.shape


DAMAGE = {
    "cut off": (lambda file: file.write_bytes(file.read_bytes()[:-100]), "cut off or damaged"),
    "header alone": (lambda file: file.write_bytes(file.read_bytes()[:6]), "cut off or damaged"),
    "empty": (lambda file: file.write_bytes(b""), "cut off or damaged"),
    "a page": (lambda file: file.write_text("<html>not found</html>"), "cut off or damaged"),
    "pointer": (lambda file: file.write_text(POINTER), "1 files are Git LFS pointers.*: model-00001"),
    "gone": (lambda file: file.unlink(), "1 of the 2 weight files that .* are not there: model-00001"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_weights_that_are_not_all_there_are_refused(copy, kind):
    damage, message = DAMAGE[kind]
    damage(copy / SHARD)
    with pytest.raises(PolicyError, match=message) as raised:
        load_model(copy, POLICY)
    assert "fetch the checkpoint again" in str(raised.value)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "preprocessor_config.json", INDEX])
@pytest.mark.parametrize("content", [POINTER, "", "{", "[]"])
def test_a_file_that_is_a_pointer_or_damaged_is_refused(copy, name, content):
    (copy / name).write_text(content)
    with pytest.raises(PolicyError) as raised:  # noqa: PT012 each reads some of the files
        load_processor(copy, POLICY)
        load_model(copy, POLICY)
    assert str(copy) in str(raised.value)
    assert len(str(raised.value)) < 1000
    assert content != POINTER or f"Git LFS pointers, not what they stand for: {name}" in str(raised.value)


def test_a_quantised_checkpoint_is_refused(copy):
    edit(copy / "config.json", quantization_config={"quant_method": "awq", "bits": 4})
    with pytest.raises(PolicyError, match=r"no Qwen2\.5-VL could be loaded"):
        load_model(copy, POLICY)


def test_a_tensor_of_the_index_that_its_file_lacks_is_missing(copy):
    shard = load_file(copy / SHARD)
    shard.pop(name := max(shard))
    save_file(shard, copy / SHARD, metadata={"format": "pt"})
    with pytest.raises(PolicyError, match=rf"1 are missing: \S*{name}"):
        load_model(copy, POLICY)


def test_a_tokenizer_that_is_larger_than_the_embedding_is_refused(tmp_path):
    folder = published(tmp_path, vocabulary=400)
    with pytest.raises(
        PolicyError, match=r"18 of the tokenizer's 418 tokens, as .* have no row in the model's embedding, .* 400"
    ):
        load_processor(folder, POLICY)


def test_another_id_of_the_image_token_is_refused(copy):
    edit(copy / "config.json", image_token_id=5)
    with pytest.raises(
        PolicyError, match=r"<\|image_pad\|> is 408 in the tokenizer and 5 in config\.json \(image_token_id\)"
    ):
        load_processor(copy, POLICY)


TEMPLATES = {
    "text alone": (TEXT_ONLY, "for text alone|otherwise where it is a list"),
    "no list": (
        "{% for m in messages %}{{ m['content'] + '' }}{% endfor %}",
        "cannot render a question about an image",
    ),
    "refuses": ("{{ raise_exception('no images') }}", "cannot render .*no images"),
    "broken": ("{% for m in", "cannot render"),
    "no generation prompt": (TEMPLATE.replace("add_generation_prompt", "false"), "does not begin an answer"),
    "last turn alone": (
        TEMPLATE.replace("in messages", "in messages if message['role'] != 'assistant'"),
        "leaves out a turn",
    ),
    "two tokens": (TEMPLATE.replace("<|image_pad|>", "<|image_pad|><|image_pad|>"), "several tokens for one image"),
    "answers cut": (
        TEMPLATE.replace("{% for message", "{% set n = messages|length %}{{ n }}{% for message"),
        "begin an answer",
    ),
}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_template_that_cannot_show_an_image_is_refused_with_the_remedy(copy, kind):
    template, message = TEMPLATES[kind]
    (copy / "chat_template.json").write_text(json.dumps({"chat_template": template}), encoding="utf-8")
    with pytest.raises(PolicyError, match=message) as raised:
        load_processor(copy, POLICY)
    assert "take chat_template.json or chat_template.jinja of a Qwen2.5-VL-Instruct checkpoint" in str(raised.value)


def test_a_saved_policy_has_the_settings_that_loaders_read(checkpoint, tmp_path):
    processor = load_processor(checkpoint, WIDE)
    save_policy(tmp_path, load_model(checkpoint, WIDE), processor)
    videos = get_video_processor_config(tmp_path)  # transformers 5: the block in processor_config.json
    assert videos["video_processor_type"] == "Qwen2VLVideoProcessor"
    assert videos["patch_size"] == 14
    for name, kind in (
        ("preprocessor_config", "image_processor_type"),
        ("video_preprocessor_config", "video_processor_type"),
    ):
        content = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))  # transformers 4
        assert content["processor_class"] == "Qwen2_5_VLProcessor"
        assert content[kind].startswith("Qwen2VL")
    bounds = json.loads((tmp_path / "preprocessor_config.json").read_text(encoding="utf-8"))["size"]
    assert bounds == {"shortest_edge": 3136, "longest_edge": 50_176}
    assert (tmp_path / "chat_template.jinja").read_text(encoding="utf-8") == TEMPLATE


STANDARD = """
import json, sys, types
if sys.argv[3] == "without kernels":  # the wheel's compiled part wants a torch with CUDA; what the processor calls is Python
    sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")
import torch
from PIL import Image
from transformers import AutoProcessor
processor = AutoProcessor.from_pretrained(sys.argv[1])
text = processor.apply_chat_template(json.loads(sys.argv[2]), add_generation_prompt=True)
inputs = processor(text=[text], images=[Image.linear_gradient("L").convert("RGB").resize((300, 200))], return_tensors="pt")
kinds = [type(part).__name__ for part in (processor, processor.image_processor, processor.video_processor)]
torch.save({"kinds": kinds, **inputs}, sys.argv[4])
"""


@pytest.mark.slow
def test_a_saved_policy_loads_by_the_standard_processor_beside_torchvision(checkpoint, tmp_path):
    """`make slow` installs torchvision to where this looks for it."""
    assert VISION.is_dir(), "run this test by: make slow"
    policy, seen = tmp_path / "policy", tmp_path / "seen.pt"
    save_policy(policy, load_model(checkpoint, WIDE), load_processor(checkpoint, WIDE))
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Q"}]}]
    kernels = "without kernels" if torch.version.cuda is None else "with kernels"
    command = [sys.executable, "-c", STANDARD, policy, json.dumps(messages), kernels, seen]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(VISION)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    theirs = torch.load(seen)
    assert theirs["kinds"] == ["Qwen2_5_VLProcessor", "Qwen2VLImageProcessor", "Qwen2VLVideoProcessor"]
    processor = load_processor(policy, WIDE)
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    picture = Image.linear_gradient("L").convert("RGB").resize((300, 200))
    ours = processor(text=[text], images=[picture], return_tensors="pt")
    for name in ("input_ids", "attention_mask", "image_grid_thw"):
        assert torch.equal(theirs[name], ours[name]), name
    # Pillow and torchvision interpolate with another rounding: within two of 255 levels, in units of the standard deviation.
    torch.testing.assert_close(theirs["pixel_values"], ours["pixel_values"], rtol=0, atol=2 / 255 / 0.26)


def test_faults_are_told_by_the_files_alone_where_transformers_reports_none(copy):
    """As with ZeRO-3: of 57 tensors one is renamed, another has a shorter shape; and nothing is said of a whole checkpoint."""
    model = load_model(copy, POLICY)
    assert _accounted(copy, model) == {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": []}
    rename(copy, lambda name: "visual.merger.other" if name == "visual.merger.ln_q.weight" else name)
    [file] = [each for each in copy.glob("*.safetensors") if "model.norm.weight" in load_file(each)]
    save_file(load_file(file) | {"model.norm.weight": torch.ones(8)}, file, metadata={"format": "pt"})
    assert _accounted(copy, model) == {
        "missing_keys": {"model.visual.merger.ln_q.weight"},
        "unexpected_keys": {"model.visual.merger.other"},
        "mismatched_keys": [("model.language_model.norm.weight", (8,), (32,))],
    }
