"""Pixels of a rollout: one copy a picture, and the numbers of training are those of TRL's copies."""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value
from datasets import Image as Column
from PIL import Image

from saferflow.data.rows import Labels, PromptRow
from saferflow.data.scenes.corpus import general_rows
from saferflow.params import load_params
from saferflow.training.arguments import Job
from saferflow.training.embedded import build_model, build_processor, train_tokenizer
from saferflow.training.grpo import grpo_trainer
from saferflow.training.pictures import Pictures, decoded
from saferflow.training.policy import load_model, save_policy

MICRO = load_params(Path(__file__).parents[2] / "profiles" / "micro.yaml")
POLICY = MICRO.policy.model_copy(update={"max_completion_tokens": 6, "train_vision": True, "cache_gb": 0.0})
GROUP = 4
RECIPE = {"batch_size": 8, "micro_batch_size": 4, "rollout_batch": 16, "group": GROUP, "kl": 0.1, "updates": 1}
LABELS = Labels("safety", "S1", 3, "text", "none", "refuse", ("knife",), "kitchen").to_json()


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """Four prompts: a picture, none, another picture, and the first one again."""
    rows = list(general_rows(4, 1, "train"))
    tokenizer = train_tokenizer([text for row in rows for text in (row.question, row.answer)], MICRO.base.vocab_size)
    processor, folder = build_processor(tokenizer, POLICY), tmp_path_factory.mktemp("policy")
    save_policy(folder, build_model(MICRO.base, tokenizer, seed=1), processor)
    images = [rows[0].image, None, rows[2].image, rows[0].image]
    asked = [
        PromptRow(row.id, "", "safety", image, "", row.question, "", LABELS)
        for row, image in zip(rows, images, strict=True)
    ]
    return folder, processor, asked


def length(completions, **columns):
    return [len(completion[0]["content"]) % 5 / 5 for completion in completions]


def trainer(policy, tmp_path, *, packed=True, numbered=True):
    folder, processor, rows = policy
    changed = POLICY.model_copy(update={"packed": packed})
    job = Job(changed, MICRO.launch, 1, tmp_path / "out", tmp_path / "steps", lambda *_: None)
    params = MICRO.grpo.model_copy(update={**RECIPE, "rewards": {"length": 1.0}})
    made = grpo_trainer(load_model(folder, changed), processor, rows, {"length": length}, params, job)
    if not numbered:
        made.pictures = None
    made.model.train()
    made.current_gradient_accumulation_steps = 2
    return made


def batch(made):
    return [dict(made.train_dataset[number]) for number in range(4) for _ in range(GROUP)]


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_losses_and_gradients_are_those_of_a_copy_for_each_completion(policy, tmp_path, packed):
    results = []
    for numbered in (False, True):
        made = trainer(policy, tmp_path, packed=packed, numbered=numbered)
        torch.manual_seed(7)
        losses = []
        for made._step in range(4):
            inputs = made._prepare_inputs(batch(made) if made._step == 0 else [])
            inputs["ref_per_token_logps"] = inputs["ref_per_token_logps"] - 0.5  # else there is no loss at the start
            losses.append(made._compute_loss(made.model, inputs))
            losses[-1].backward()
        grads = {name: weight.grad for name, weight in made.model.named_parameters() if weight.grad is not None}
        results.append(([loss.item() for loss in losses], inputs["completion_ids"].tolist(), grads))
    (expected, said, plain), (losses, says, grads) = results
    assert says == said
    assert losses == expected
    assert any(losses)
    assert any(name.startswith("model.visual") and grad.abs().sum() > 0 for name, grad in grads.items())
    assert plain.keys() == grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, plain[name], rtol=1e-5, atol=1e-8, msg=name)


def bytes_of_pixels(channels: int) -> int:
    """Of all tensors in this process that have a patch a line; those that share memory count once."""
    gc.collect()
    held = {
        each.untyped_storage().data_ptr(): each.untyped_storage().nbytes()
        for each in gc.get_objects()
        if type(each) is torch.Tensor and each.dim() == 2 and each.shape[1] == channels and each.is_floating_point()
    }
    return sum(held.values())


def test_between_updates_pixels_are_held_once_a_picture(policy, tmp_path):
    """Of 16 completions for 4 prompts, 12 see one of two pictures."""
    _, processor, rows = policy
    pictures = [Image.open(Path(tmp_path / name)) for name in written(tmp_path, rows[0].image, rows[2].image)]
    shown = processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
    one_of_each, channels = shown.numel() * shown.element_size(), shown.shape[1]
    del shown
    before = bytes_of_pixels(channels)
    plain = trainer(policy, tmp_path, numbered=False)
    plain._prepare_inputs(batch(plain))
    first = plain.train_dataset[0]["images"][0]["bytes"]
    assert bytes_of_pixels(channels) - before > 3 * one_of_each, "the count sees TRL's copies"
    del plain
    gc.collect()
    made = trainer(policy, tmp_path)
    for _ in range(2):  # a second rollout takes the place of the first
        made._step, made._buffered_inputs = 0, None
        made._prepare_inputs(batch(made))
        assert bytes_of_pixels(channels) - before == one_of_each
    assert made.pictures.table.device.type == "cpu"
    assert first == rows[0].image
    assert not any("image" in part for text in made._logs["prompt"] for part in text[-1]["content"]), "nor in TRL's log"


def written(folder, *images):
    for number, content in enumerate(images):
        (folder / f"{number}.png").write_bytes(content)
    return [f"{number}.png" for number in range(len(images))]


def test_pictures_that_differ_in_a_pixel_or_in_their_palette_are_two(policy):
    processor = policy[1]
    grey = Image.fromarray(np.full((56, 56, 3), 128, dtype=np.uint8))
    dot = grey.copy()
    dot.putpixel((30, 30), (129, 128, 128))
    red, blue = (Image.new("P", (56, 56)) for _ in range(2))
    red.putpalette([255, 0, 0])
    blue.putpalette([0, 0, 255])
    images = [grey, dot, grey.copy(), red, blue]
    plain = processor.image_processor(images, return_tensors="pt")
    pictures = Pictures()
    with pictures.numbered(processor):
        shown = processor.image_processor([[image] for image in images])
    assert shown["image_grid_thw"].tolist() == plain["image_grid_thw"].tolist()
    assert torch.equal(pictures.pixels(shown["pixel_values"]), plain["pixel_values"])
    assert len(pictures.table) == 4 * plain["image_grid_thw"][0].prod()


def test_rows_that_hold_the_same_bytes_share_the_picture(policy):
    image = policy[2][0].image
    features = Features(images=List(Column(decode=False)), row=Value("string"))
    rows = Dataset.from_dict(
        {"images": [[{"bytes": image, "path": None}]] * 2 + [[]], "row": ["a", "b", "c"]}, features
    )
    one, two, none = decoded([dict(row) for row in rows])
    assert one["images"][0] is two["images"][0]
    assert one["images"][0].mode == "RGB"
    assert (none["images"], none["row"]) == ([], "c")
