"""How many twins are found of changed photographs and questions, and how many false alarms there are.

    PYTHONPATH=src python benchmarks/twins.py --photographs FOLDER --records ../shared/data/real/records.jsonl

Each photograph and each question is held out; its changed copy stands in training. A false alarm is a photograph or question
that is taken for another one. Photographs are reduced to 400 pixels and saved as JPEG. Without a folder, pictures of noise
with a photograph's spectrum are drawn; they are called drawn. Prints the table of docs/data.md. Source: ours.
"""

import argparse
import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from saferflow.data.pictures import Pictures
from saferflow.data.questions import Questions
from saferflow.params import load_params

SIDE = 400
SOURCES = ("paul-rottger/exaggerated-safety", "patrickrchao/JailbreakingLLMs", "lm-sys/FastChat")
LONG = (
    "Think step by step, look at every detail that matters, list your reasons one after the other and end with a word."
)
Change = Callable[[Image.Image], Image.Image]


def cut(left: float, top: float, right: float, bottom: float) -> Change:
    """Keep the part between these shares of the sides."""

    def change(image: Image.Image) -> Image.Image:
        across, down = image.size
        return image.crop((round(across * left), round(down * top), round(across * right), round(down * bottom)))

    return change


def text_over(
    image: Image.Image, places: list[tuple[float, float]], word: str, share: float, alpha: int
) -> Image.Image:
    image = image.copy()
    drawn = ImageDraw.Draw(image, "RGBA")
    for across, down in places:
        place = image.width * across, image.height * down
        drawn.text(place, word, fill=(255, 255, 255, alpha), font=ImageFont.load_default(image.height * share))
    return image


PICTURES: dict[str, Change] = {
    "JPEG of quality 30": lambda image: Image.open(io.BytesIO(encoded(image, 30))),
    "200 x 150": lambda image: image.resize((200, 150)),
    "grey": lambda image: image.convert("L"),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
    "brighter by 30%": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "5% cut off, centre kept": cut(0.025, 0.025, 0.975, 0.975),
    "10% cut off, centre kept": cut(0.05, 0.05, 0.95, 0.95),
    "10% cut off, a corner kept": cut(0, 0, 0.9, 0.9),
    "10% cut off, elsewhere": cut(0.03, 0.09, 0.93, 0.99),
    "20% cut off, centre kept": cut(0.1, 0.1, 0.9, 0.9),
    "10% cut off at the top": cut(0, 0.1, 1, 1),
    "white border of 5%": lambda image: ImageOps.expand(image, round(0.05 * min(image.size)), "white"),
    "black border of 10%": lambda image: ImageOps.expand(image, round(0.1 * min(image.size)), "black"),
    "padded to a square, white": lambda image: ImageOps.pad(image, (max(image.size),) * 2, color="white"),
    "mirrored": ImageOps.mirror,
    "turned by 90 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "turned by 3 degrees": lambda image: image.rotate(3, Image.Resampling.BICUBIC),
    "inverted": ImageOps.invert,
    "watermark across": lambda image: text_over(image, [(0.1, 0.4)], "SAMPLE PHOTO", 0.12, 150),
    "watermark, 12 times": lambda image: text_over(
        image, [(x / 3 + 0.02, y / 4 + 0.05) for x in range(3) for y in range(4)], "(c) STOCK", 0.1, 128
    ),
    "mirrored, then 10% cut off": lambda image: cut(0.05, 0.05, 0.95, 0.95)(ImageOps.mirror(image)),
}


def replaced(question: str, words: list[str], rng: random.Random) -> str:
    own = question.split()
    own[rng.randrange(len(own))] = rng.choice(words)
    return " ".join(own)


def swapped(question: str, rng: random.Random) -> str:
    places = [n for n in range(len(question) - 1) if question[n : n + 2].isalpha() and question[n] != question[n + 1]]
    place = rng.choice(places)
    return question[:place] + question[place + 1] + question[place] + question[place + 2 :]


def question_changes(questions: list[str]) -> dict[str, Callable[[str], str]]:
    rng = random.Random(1)
    words = sorted({word for question in questions for word in question.split()})
    return {
        "`<image>` in front": lambda question: f"<image>{question}",
        "`<|image_pad|>` in front": lambda question: f"<|vision_start|><|image_pad|><|vision_end|>{question}",
        "zero-width spaces": "\u200b".join,
        "curly quotes": lambda question: "“" + question.replace("'", "’") + "”",
        "full-width letters": lambda question: "".join(
            chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in question
        ),
        '"Answer briefly." behind': lambda question: f"{question} Answer briefly.",
        '"Answer briefly." before': lambda question: f"Answer briefly. {question}",
        "a long instruction behind": lambda question: f"{question} {LONG}",
        "a long instruction before": lambda question: f"{LONG} {question}",
        "one word changed": lambda question: replaced(question, words, rng),
        "two letters swapped": lambda question: swapped(question, rng),
    }


def encoded(image: Image.Image, quality: int = 95) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def photographs(folder: Path | None, most: int) -> list[Image.Image]:
    if folder is None:
        return [noise(seed) for seed in range(most)]
    images = []
    for path in sorted(folder.iterdir())[:most]:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
        image.thumbnail((SIDE, SIDE))
        images.append(image)
    return images


def noise(seed: int) -> Image.Image:
    """A drawn picture whose strength falls with the frequency, as a photograph's does."""
    rows, columns = np.meshgrid(np.fft.fftfreq(300), np.fft.fftfreq(SIDE), indexing="ij")
    waves = np.fft.fft2(np.random.default_rng(seed).normal(size=rows.shape)) / (0.01 + np.hypot(rows, columns)) ** 1.5
    field = np.fft.ifft2(waves).real
    return Image.fromarray(((field - field.min()) / np.ptp(field) * 255).astype(np.uint8)).convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--records", type=Path, default=Path("../shared/data/real/records.jsonl"))
    options = parser.parse_args()
    bounds = load_params().validation
    images = photographs(options.photographs, 60)
    index = Pictures(bounds.twin_image_bits)
    numbers = [index.add(encoded(image)) for image in images]
    print(f"of {len(images)} {'photographs' if options.photographs else 'drawn pictures'} | found | taken for another")
    for name, change in {"unchanged": lambda image: image, **PICTURES}.items():
        near = [set(index.near(encoded(change(image)))) for image in images]
        found = sum(number in others for number, others in zip(numbers, near, strict=True))
        print(
            f"| {name} | {found} | {sum(bool(others - {n}) for n, others in zip(numbers, near, strict=True))} |",
            flush=True,
        )
    records = [json.loads(line) for line in options.records.read_text(encoding="utf-8").splitlines()]
    questions = list(dict.fromkeys(record["prompt"] for record in records if record["source"] in SOURCES))[:450]
    held_out = Questions(questions, bounds.twin_text)
    print(f"of {len(questions)} questions | found | taken for another")
    for name, change in {"unchanged": lambda question: question, **question_changes(questions)}.items():
        near = [{text for _, text in held_out.near(change(question))} for question in questions]
        found = sum(question in others for question, others in zip(questions, near, strict=True))
        print(f"| {name} | {found} | {sum(bool(o - {q}) for q, o in zip(questions, near, strict=True))} |", flush=True)


if __name__ == "__main__":
    main()
