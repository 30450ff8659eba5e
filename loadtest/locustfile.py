"""Locust users who chat: for Locust's web page and its distributed workers.

    GALERNE_API_KEY=… PYTHONPATH=. locust -f loadtest/locustfile.py --host http://127.0.0.1:8000 \\
        --model demo --users 20

`locust --help` lists the options under "Custom arguments"; all but the key can be changed on the
page. Workers (`--worker`, `--processes`) read the key from their own environment.

Beside the requests, whose time is that to the end of the answer, the table and the CSV files have

    ms      TTFT           from sending to the first part with a token
    ms      ITL            every gap between parts with tokens, of all streams
    ms      TPOT           of each stream, after the first token
    tokens  output         of each stream, by the server's usage; the columns are tokens, not ms

of answers that came whole. "Aggregated" counts requests alone. Locust keeps percentiles in coarse
steps, whole ms up to 100 and 10 ms up to 1,000; averages are exact.

Locust is a closed loop: a user sends its next request only after the answer to the last, so that a
server that slows down gets fewer requests, exactly while it is slow (coordinated omission), and the
percentiles look better than what people who do not wait for each other would see. Each user sends
`--user-rate` requests a second as long as answers take less than its inverse; give more users a
lower rate to come near to an open loop, or take `galerne load run`, which is one.
"""

from __future__ import annotations

import os
import random
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError
from functools import cache
from pathlib import Path
from typing import Any

from locust import FastHttpUser, events, task
from locust.contrib.fasthttp import FAILURE_EXCEPTIONS

from loadtest.clients.stream_times import StreamTimes
from loadtest.generator.openai_chat import CHAT
from loadtest.generator.wire import Message, Wording
from loadtest.workload.prompts import SIMULATED, Prompts, words_of
from loadtest.workload.request import BLOCK_TOKENS
from serving.errors import ConfigError

_TIMEOUT_S = 300.0


def positive_integer(text: str) -> int:
    if int(text) < 1:
        raise ArgumentTypeError("must be at least 1")
    return int(text)


def positive_number(text: str) -> float:
    if not float(text) > 0:
        raise ArgumentTypeError("must be above 0")
    return float(text)


@events.init_command_line_parser.add_listener
def _add_arguments(parser: ArgumentParser, **_: Any) -> None:
    parser.add_argument("--model", default="demo", help="Model to ask.")
    parser.add_argument(
        "--prompt-tokens", type=positive_integer, default=512, help="Of each prompt."
    )
    parser.add_argument(
        "--output-tokens", type=positive_integer, default=128, help="Of each answer."
    )
    parser.add_argument(
        "--user-rate",
        type=positive_number,
        default=0.1,
        help="Requests a second of each user, at most.",
    )
    parser.add_argument(
        "--tokenizer",
        default="",
        help="Folder of the model's tokenizer, for prompts of exactly so many tokens.",
    )


@events.init.add_listener
def _check_tokenizer(environment: Any, **_: Any) -> None:
    try:
        _prompts(environment.parsed_options.tokenizer)
    except ConfigError as error:
        sys.exit(f"{error.message}\n{error.hint}")


class ChatUser(FastHttpUser):
    """Asks for one chat completion after another, each with a prompt of its own."""

    network_timeout = _TIMEOUT_S
    insecure = False  # Locust's default sends the key to whoever answers.

    def on_start(self) -> None:
        """Begin at a random moment: users who are spawned together would send together for ever."""
        options = self.environment.parsed_options
        self._prompts = _prompts(options.tokenizer)
        self._body_head = CHAT.head(Wording(options.model, True, True, 0.0))
        self._period_s = 1 / options.user_rate
        time.sleep(random.uniform(0, self._period_s))
        self._due = time.perf_counter()

    def wait_time(self) -> float:
        """Seconds to the next request: `constant_throughput`, counted from the random moment."""
        now = time.perf_counter()
        self._due = max(self._due + self._period_s, now)
        return self._due - now

    @task
    def chat(self) -> None:
        """One request, and what became of it."""
        body = self._body()
        begun = time.perf_counter()
        times = StreamTimes(begun=begun)
        with self.client.post(
            CHAT.path, data=body, headers=_headers(), stream=True, catch_response=True
        ) as response:
            error = _listen(response, times)
            response.request_meta["response_time"] = 1000 * (time.perf_counter() - begun)
            if error:
                response.failure(error)
            elif response.status_code == 200:
                self._log(times)

    def _body(self) -> bytes:
        options = self.environment.parsed_options
        num_blocks = -(-options.prompt_tokens // BLOCK_TOKENS)
        names = [random.getrandbits(64) for _ in range(num_blocks)]
        text = self._prompts.text(names, options.prompt_tokens)
        return CHAT.body(self._body_head, [Message("user", b'"%b"' % text)], options.output_tokens)

    def _log(self, times: StreamTimes) -> None:
        self._note("TTFT", times.ttft_s)
        self._note("TPOT", times.tpot_s)
        for gap_s in times.gaps_s:
            self._note("ITL", gap_s)
        if times.output_tokens is not None:
            self.environment.stats.get("output", "tokens").log(times.output_tokens, 0)

    def _note(self, name: str, seconds: float | None) -> None:
        # By the entry's own log, not by a request event, which would count it as one more request.
        if seconds is not None:
            self.environment.stats.get(name, "ms").log(1000 * seconds, 0)


@cache
def _prompts(tokenizer: str) -> Prompts:
    return Prompts(words_of(Path(tokenizer)) if tokenizer else SIMULATED)


def _headers() -> dict[str, str]:
    key = os.environ.get("GALERNE_API_KEY")
    return {
        "Content-Type": "application/json",
        "Accept": "text/event-stream",
        "Accept-Encoding": "identity",
        **({"Authorization": f"Bearer {key}"} if key else {}),
    }


def _listen(response: Any, times: StreamTimes) -> str | None:
    """Hear an answer to its end. Why it is no whole one, unless Locust knows that already."""
    if response.status_code == 0:
        return None
    try:
        if response.status_code != 200:
            return CHAT.refusal(response.content or b"", response.status_code)
        # A line is there as soon as its bytes are; to read so many bytes would wait for them all.
        while line := response.stream.readline(b"\n"):
            times.take(line, time.perf_counter())
    except FAILURE_EXCEPTIONS as error:
        return f"connection_lost: {error}"
    return times.error
