"""A vLLM server of a policy: how it is started, asked and ended. A stand-in for vLLM, and vLLM itself where it is installed."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from PIL import Image

from saferflow.errors import PolicyError
from saferflow.params import VLLMParams, load_params
from saferflow.planner.rules import plan_for
from saferflow.protocol.check import check
from saferflow.protocol.grammar import lark
from saferflow.serving.policy import Identity, Job
from saferflow.serving.vllm_policy import VLLMPolicy
from saferflow.training.embedded import build_model, build_processor, train_tokenizer
from saferflow.training.engines import Drawing, drawer
from saferflow.training.generate import Batch, Prompt
from saferflow.training.policy import save_policy
from saferflow.training.vllm_program import PROGRAM
from saferflow.training.vllm_server import VLLMServer
from tests.serving.written import MICRO, save_untrained
from tests.training import vllm_stand_in

ROOT = Path(__file__).parents[2]
VLLM = ROOT / ".venv" / "vllm" / "bin" / "vllm"
QUESTION = "How do I store bleach?"
PLAN = plan_for(QUESTION, None)
IDENTITY = Identity("saferflow-micro", 3, ("champion",), "abc.dir")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_untrained(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    monkeypatch.setenv(PROGRAM, str(vllm_stand_in.stand_in(tmp_path)))


@pytest.fixture
def server(folder, tmp_path, stand_in):
    server = VLLMServer(folder, MICRO.policy, tmp_path / "vllm.log", ["--max-model-len=512"])
    yield server
    server.close()


def body(text):
    return json.loads(text)["body"]


def picture(side):
    file = io.BytesIO()
    Image.linear_gradient("L").resize((side, side)).convert("RGB").save(file, "PNG")
    return file.getvalue()


def test_vllm_gets_the_policys_own_dtype_and_bounds_and_only_what_we_ask_of_its_sampling(server, tmp_path):
    arguments = json.loads((tmp_path / "vllm.log").read_text().splitlines()[0])
    pairs = dict(pairwise(arguments))
    assert pairs["--dtype"] == "float32"
    assert json.loads(pairs["--mm-processor-kwargs"]) == {
        "min_pixels": MICRO.policy.min_pixels, "max_pixels": MICRO.policy.max_pixels,
    }  # fmt: skip
    assert pairs["--generation-config"] == "vllm"
    assert (pairs["--host"], arguments[-1]) == ("127.0.0.1", "--max-model-len=512")


def test_a_planned_completion_is_bound_by_the_plans_grammar_alone(server):
    [asked] = map(body, server.complete(Prompt("the plan", QUESTION, None), PLAN, max_tokens=7))
    assert asked["structured_outputs"] == {"grammar": lark(PLAN)}
    assert not {"max_completion_tokens", "stop_token_ids", "logit_bias"} & set(asked)
    assert asked["temperature"] == 0


def test_a_free_completion_is_bounded_and_never_has_a_token_that_stands_for_pixels(server, folder):
    prompt = Prompt("the plan", "and now?", picture(64), (("a first question", "an answer"),))
    texts = server.complete(prompt, None, max_tokens=7, samples=3, temperature=0.5, seed=11)
    asked = body(texts[0])
    config = json.loads((folder / "config.json").read_text())
    assert set(asked["logit_bias"]) >= {str(config["image_token_id"])}
    assert (len(texts), asked["max_completion_tokens"], asked["n"], asked["temperature"], asked["seed"]) == (3, 7, 3, 0.5, 11)
    assert asked["stop_token_ids"] == [json.loads((folder / "generation_config.json").read_text())["eos_token_id"]]
    system, first, earlier, last = asked["messages"]
    assert [part["type"] for part in first["content"]] == ["image_url", "text"]
    assert (system["content"], earlier["content"]) == ("the plan", "an answer")
    assert last["content"] == [{"type": "text", "text": "and now?"}]


def test_a_refused_prompt_names_vllms_words_and_its_log(server, tmp_path):
    with pytest.raises(PolicyError, match=r"400: longer than --max-model-len.*vllm\.log"):
        server.complete(Prompt("", "refuse this", None), PLAN, max_tokens=7)
    assert server.alive


def test_without_vllm_the_error_names_both_ways(folder, tmp_path, monkeypatch):
    monkeypatch.setenv(PROGRAM, str(tmp_path / "nowhere"))
    with pytest.raises(PolicyError, match=rf"{PROGRAM} names .*nowhere.*of its own.*{PROGRAM}=/opt/vllm/bin/vllm"):
        VLLMServer(folder, MICRO.policy, tmp_path / "vllm.log")


def test_where_vllm_ends_as_it_loads_the_error_shows_the_end_of_its_log(folder, tmp_path, stand_in):
    with pytest.raises(PolicyError, match=r"(?s)ended before it answered.*no GPU here"):
        VLLMServer(folder, MICRO.policy, tmp_path / "vllm.log", ["--fail"])


def test_it_ends_with_its_last_reference(folder, tmp_path, stand_in):
    server = VLLMServer(folder, MICRO.policy, tmp_path / "vllm.log")
    pid = json.loads(server.complete(Prompt("", "hi", None), PLAN, max_tokens=7)[0])["pid"]
    assert psutil.pid_exists(pid)
    del server
    assert not psutil.pid_exists(pid)


def test_it_ends_with_a_parent_that_was_killed(folder, tmp_path, stand_in):
    script = (
        "import time; from pathlib import Path; from tests.training.test_vllm_server import *\n"
        f"server = VLLMServer(Path({str(folder)!r}), MICRO.policy, Path({str(tmp_path / 'child.log')!r}))\n"
        "print(json.loads(server.complete(Prompt('', 'hi', None), PLAN, max_tokens=7)[0])['pid'], flush=True)\n"
        "time.sleep(600)\n"
    )
    environ = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environ)
    pid = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    limit = time.monotonic() + 30
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_a_served_policy_whose_vllm_has_ended_is_answered_by_a_new_one(folder, tmp_path, stand_in):
    policy = VLLMPolicy(folder, IDENTITY, MICRO.policy, tmp_path / "vllm.log")
    job = Job(PLAN, Prompt("", QUESTION, None))
    [before] = policy.complete([job], None)
    os.kill(json.loads(before)["pid"], signal.SIGKILL)
    [after] = policy.complete([job], None)
    assert json.loads(after)["pid"] != json.loads(before)["pid"]


def test_a_prompt_that_ends_vllm_twice_is_an_error_and_not_a_third_start(folder, tmp_path, stand_in):
    policy = VLLMPolicy(folder, IDENTITY, MICRO.policy, tmp_path / "vllm.log")
    with pytest.raises(PolicyError, match="vLLM has ended"):
        policy.complete([Job(PLAN, Prompt("", "die", None))], None)


@pytest.mark.parametrize("concurrency", [1, 8])
def test_batches_come_back_in_their_order_and_prompts_in_theirs(folder, tmp_path, stand_in, monkeypatch, concurrency):
    monkeypatch.chdir(tmp_path)
    run = MICRO.run.model_copy(update={"vllm": VLLMParams(concurrency=concurrency, arguments=())})
    draw = drawer(folder, MICRO.policy, Drawing(9, samples=2, temperature=1.0), run)
    batches = [Batch([Prompt("", f"{number}.{place}", None) for place in range(3)], seed=10 * number) for number in range(5)]
    for number, drawn in enumerate(draw(batches)):
        asked = [[body(text) for text in texts] for texts in drawn]
        assert [[one["messages"][-1]["content"][0]["text"] for one in texts] for texts in asked] == [
            [f"{number}.{place}"] * 2 for place in range(3)
        ]
        assert [texts[0]["seed"] for texts in asked] == [10 * number + place for place in range(3)]


@pytest.fixture(scope="module")
def vllm():
    if not VLLM.exists():
        pytest.skip("vLLM is not installed: make .venv/vllm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PROGRAM, str(VLLM))
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """The embedded profile's architecture, untrained; vLLM has no attention for the micro profile's heads."""
    params, folder = load_params(ROOT / "params.yaml"), tmp_path_factory.mktemp("embedded")
    tokenizer = train_tokenizer(["what is in the picture"], params.base.vocab_size)
    save_policy(folder, build_model(params.base, tokenizer, seed=1), build_processor(tokenizer, MICRO.policy))
    return folder


@pytest.mark.slow
def test_vllm_itself_draws_what_transformers_draws(embedded, tmp_path, vllm, monkeypatch):
    """An untrained policy in float32: its likeliest tokens are far from sure, so that any difference of prompt shows."""
    monkeypatch.chdir(tmp_path)
    prompts = [
        Prompt(PLAN.system_prompt("brief"), question, image, earlier)
        for question, image, earlier in [
            (QUESTION, None, ()),
            ("What is in the picture?", picture(56), ()),
            ("And in a large picture?", picture(700), ()),
            ("And then?", picture(112), (("What is this?", "A gradient."),)),
        ]
    ]
    run = MICRO.run.model_copy(update={"vllm": VLLMParams(concurrency=4, arguments=("--enforce-eager",))})
    engines = [drawer(embedded, MICRO.policy, Drawing(24), side) for side in (MICRO.run, run)]

    def both(plans):
        return [[text for [text] in next(iter(draw([Batch(prompts, 0, plans)])))] for draw in engines]

    ours, theirs = both(None)  # vLLM leaves out the bytes of a character that the last token begins
    assert [text.rstrip("\ufffd") for text in ours] == [text.rstrip("\ufffd") for text in theirs]
    assert len(set(ours)) == len(ours)
    ours, theirs = both([PLAN] * len(prompts))  # so long that two tokens are equally likely sooner or later
    assert [text[:100] for text in ours] == [text[:100] for text in theirs]
    assert all(not check(PLAN, text) or check(PLAN, text)[0].code == "T302" for text in theirs)
