"""A policy behind a vLLM server of its own, which is started for it, asked over loopback, and ends with this process.

Source: ours.
"""

import base64
import io
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import httpx
from openai import APIConnectionError, APIError, APIStatusError, DefaultHttpxClient, OpenAI
from transformers import AutoConfig, GenerationConfig, PretrainedConfig

from saferflow.addresses import unusable_proxies
from saferflow.data.images import open_rgb
from saferflow.endpoint.completion import reported_error
from saferflow.endpoint.transport import CALL
from saferflow.errors import PolicyError
from saferflow.params import PolicyParams
from saferflow.protocol.grammar import vllm_request
from saferflow.protocol.plan import Plan
from saferflow.training.conversation import chat
from saferflow.training.families import family_of
from saferflow.training.generate import Prompt
from saferflow.training.leash import STOP_SECONDS
from saferflow.training.plain_template import write_plain_template
from saferflow.training.policy import load_processor, source
from saferflow.training.released import PENALTY, SYSTEM
from saferflow.training.vllm_program import program

SERVED = "policy"
"""The served model's name."""
LOOK_SECONDS = 0.5
TAIL = 6
"""Lines of the log's end that an error shows."""
_FAULT = re.compile(r"(?:ERROR .*|^)\b\w+(?:Error|Exception): ")
LEASH = Path(__file__).with_name("leash.py")


class VLLMServer:
    """A running server of one policy. It ends by `close`, with its last reference, and with this process, however that ends.

    Args:
        folder: the policy's.
        log: the file that vLLM writes its log to.
        arguments: further options of `vllm serve`.
        waiting: is told once in a while how many seconds it has been loading.

    Raises:
        PolicyError: vLLM is not installed, or it ended before it answered.
    """

    def __init__(
        self,
        folder: Path,
        policy: PolicyParams,
        log: Path,
        arguments: Sequence[str] = (),
        waiting: Callable[[float], None] = lambda seconds: None,
    ):
        self._log, key, port = log, secrets.token_urlsafe(), _free_port()
        where, revision = source(folder)
        processor, config = load_processor(folder, policy), AutoConfig.from_pretrained(where, revision=revision)
        ends = _generation(where, revision, config).eos_token_id
        self._free = {
            "stop_token_ids": ends if isinstance(ends, list) else [ends],
            "logit_bias": {str(token): -100 for token in family_of(config, where).placeholder_ids(config)},
        }
        """Fields of a request for a free completion: its ends, and no token that stands for pixels."""
        with TemporaryDirectory(prefix="saferflow-") as home:  # vLLM reads the template as it starts
            processor.save_pretrained(home)
            write_plain_template(Path(home), template := Path(home) / "plain.jinja")
            command = [*_command(where, revision, policy, port), "--chat-template", str(template), *arguments]
            self._process, leash = _start([program(), *command], log, key)
            self._finalizer = weakref.finalize(self, _end, self._process, leash)
            self._wait(f"http://127.0.0.1:{port}/health", waiting)
        self._client = OpenAI(
            base_url=f"http://127.0.0.1:{port}/v1",
            api_key=key,
            timeout=None,
            http_client=DefaultHttpxClient(trust_env=False, timeout=None, limits=httpx.Limits(max_connections=None)),
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """End it."""
        self._finalizer()

    def complete(
        self,
        prompt: Prompt,
        plan: Plan | None,
        *,
        max_tokens: int,
        samples: int = 1,
        temperature: float | None = None,
        seed: int = 0,
        released: bool = False,
    ) -> list[str]:
        """Complete a prompt `samples` times. Threads may ask at the same time; vLLM batches what they ask.

        Args:
            plan: whose grammar binds the completion and bounds its length; None leaves it free.
            max_tokens: of a free completion.
            temperature: None decodes greedily.
            released: decode as [K]'s released evaluation does.

        Raises:
            PolicyError: the server refuses the prompt, or has ended.
        """
        body = {
            "model": SERVED,
            "messages": _messages(SYSTEM if released else prompt.system, prompt),
            "n": samples,
            "temperature": temperature or 0.0,
            "seed": seed,
        }
        if plan is not None:
            body |= vllm_request(plan)
        else:
            body |= {"max_completion_tokens": max_tokens, **self._free}
        if released:
            body["repetition_penalty"] = PENALTY
        try:
            answer = self._client.post(CALL, cast_to=httpx.Response, body=body).json()
        except APIStatusError as error:
            reported = str(reported_error(error.response.content))
            raise PolicyError(f"vLLM refuses a prompt ({error.status_code}: {reported:.300}); its log: {self._log}") from None
        except APIError as error:
            if isinstance(error, APIConnectionError) and not self.alive:
                raise PolicyError(f"vLLM has ended; from {self._log}:\n{_tail(self._log)}") from None
            raise PolicyError(f"vLLM did not answer ({type(error).__name__}); its log: {self._log}") from None
        return [choice["message"]["content"] or "" for choice in sorted(answer["choices"], key=lambda one: one["index"])]

    def _wait(self, health: str, waiting: Callable[[float], None]) -> None:
        started = time.monotonic()
        while True:
            if not self.alive:
                raise PolicyError(f"vLLM ended before it answered; from {self._log}:\n{_tail(self._log)}")
            with suppress(httpx.HTTPError):
                if httpx.get(health, trust_env=False, timeout=5).is_success:
                    return
            waiting(time.monotonic() - started)
            time.sleep(LOOK_SECONDS)


def _generation(where: str, revision: str | None, config: PretrainedConfig) -> GenerationConfig:
    try:
        return GenerationConfig.from_pretrained(where, revision=revision)
    except OSError:  # it has no such file
        return GenerationConfig.from_model_config(config)


def _command(where: str, revision: str | None, policy: PolicyParams, port: int) -> list[str]:
    bounds = json.dumps({"min_pixels": policy.min_pixels, "max_pixels": policy.max_pixels})
    return [
        "serve", where, *(["--revision", revision] if revision else []), "--served-model-name", SERVED,
        "--host", "127.0.0.1", "--port", str(port), "--dtype", policy.dtype, "--generation-config", "vllm",
        "--chat-template-content-format", "openai", "--structured-outputs-config.backend", "guidance",
        "--limit-mm-per-prompt", '{"image": 1, "video": 0}', "--mm-processor-kwargs", bounds,
    ]  # fmt: skip


def _messages(system: str, prompt: Prompt) -> list[dict[str, Any]]:
    """A conversation in OpenAI's form, the picture as a data URI."""
    image = open_rgb(prompt.image) if prompt.image is not None else None
    messages = chat(system, prompt.question, image, prompt.earlier)
    if image is not None:
        file = io.BytesIO()
        image.save(file, "PNG", compress_level=1)
        address = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        first = next(message for message in messages if message["role"] == "user")
        first["content"][0] = {"type": "image_url", "image_url": {"url": address}}
    return messages


def _start(command: Sequence[str], log: Path, key: str) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """Start a command under `leash`, which ends it when this process is gone."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(LEASH), *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(os.environ, key),
        )
    return process, process.stdin  # type: ignore[return-value] it is a pipe


def _environment(environ: Mapping[str, str], key: str) -> dict[str, str]:
    """vLLM's: its key, no word to its makers, and no PYTHONPATH, for its Python is another environment's."""
    dropped = {*unusable_proxies(environ), "PYTHONPATH", "PYTHONHOME"}
    kept = {name: value for name, value in environ.items() if name not in dropped}
    return kept | {"VLLM_API_KEY": key, "VLLM_NO_USAGE_STATS": "1"}


def _end(process: subprocess.Popen[bytes], leash: IO[bytes]) -> None:
    leash.close()
    try:
        process.wait(2 * STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _tail(log: Path) -> str:
    """The first fault that a log names, and its end, where Python says what else it leaves behind."""
    lines = log.read_text(errors="replace").splitlines()
    first = next(([line] for line in lines[:-TAIL] if _FAULT.search(line)), [])
    return "\n".join(line[:300] for line in [*first, *lines[-TAIL:]])
