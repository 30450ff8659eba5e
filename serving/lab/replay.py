"""The simulated engines' clockwork, compiled: a fleet's steps and streams in virtual time.

The same rules as `serving.simulator` in a form that takes no object per request: prompts are read
in chunks in order of arrival, beside one token for each running sequence; a step takes what the
timing model says. Left out are prefix caching and preemption: a request begins once the KV cache
has room for its prompt and its answer.

A request that begins to generate in one step knows the step in which it will end, so running
sequences are kept in a ring of steps, and a step costs the same however many run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numba import njit

ABSENT, STARTING, READY, DRAINING = 0, 1, 2, 3
"""Phases of a replica. All but the first hold a GPU."""

NONE = -1
"""No request."""

SHORTEST_GAP_S, GAP_BIN_RATIO, NUM_GAP_BINS = 1e-4, 1.02, 700
"""Bins of times between two tokens: the first ends at so many seconds, each other one at so many
times the end of that before it. The last, from 100 s on, has no end."""

F = TypeVar("F", bound=Callable[..., Any])

Ints = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]


def _compiled(function: F) -> F:
    """Without numba's own memory management: nothing here allocates, and counting references to two
    dozen arrays in every call takes 15 times as long as the calls do."""
    return cast("F", njit(cache=True, _nrt=False)(function))


class Rules(NamedTuple):
    """Seconds of a step and what one may hold, as `TimingSettings` and `EngineSettings` have it;
    then what counts as good, and the length of the windows of `Counts`."""

    step_s: float
    prefill_s_per_token: float
    prompt_attention_s: float
    """Seconds of a token of a prompt for each token that it sees in every layer."""
    decode_s_per_sequence: float
    attention_s_per_token: float
    overhead_s: float
    max_batched_tokens: int
    max_sequences: int
    kv_tokens: int
    window_tokens: int
    """Tokens that layers with a window attend to at most."""
    held_window_tokens: int
    """Tokens of a sequence that their KV blocks cover at most."""
    full_ratio: float
    """Share of the layers that have no window."""
    good_ttft_s: float
    good_itl_s: float
    window_s: float


class Requests(NamedTuple):
    """[num_requests] each: what is asked for, then what became of it. Times in seconds; `inf`
    while they have not come. `next` links the requests of a queue."""

    at_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    first_token_s: Floats
    end_s: Floats
    next: Ints


class Replicas(NamedTuple):
    """[num_replicas] each, but for the rings, [num_replicas, longest answer].

    `clock_s` is the time up to which a replica's steps are known. `head` and `tail` are its queue
    of unread prompts; of the first one `head_read` tokens are read.
    """

    phase: Ints
    ready_s: Floats
    clock_s: Floats
    num_steps: Ints
    head: Ints
    tail: Ints
    head_read: Ints
    num_queued: Ints
    waiting_tokens: Ints
    num_running: Ints
    peak_running: Ints
    context_tokens: Ints
    reserved_tokens: Ints
    ending: Ints
    """First request of those that end with the step of this number, modulo the ring's length."""


class Counts(NamedTuple):
    """[num_windows] each: what happened in each window of the replay's time."""

    arrivals: Ints
    prompt_tokens: Ints
    output_tokens: Ints
    """Of the requests that ended in it."""
    first_tokens: Ints
    late_first_tokens: Ints
    gaps: Ints
    """Times between two tokens of a stream that ended in it."""
    long_gaps: Ints


class State(NamedTuple):
    """All that `advance` reads and changes. `gap_histogram`, [NUM_GAP_BINS], counts times between
    two tokens. `cursor` holds the number of requests that have arrived, and the first and last of
    those that wait for any replica at all."""

    requests: Requests
    replicas: Replicas
    counts: Counts
    gap_histogram: Ints
    cursor: Ints


@_compiled
def advance(state: State, rules: Rules, until_s: float) -> None:
    """Let everything happen that begins before `until_s`."""
    requests, cursor = state.requests, state.cursor
    while cursor[0] < requests.at_s.size:
        request = cursor[0]
        enters_s = requests.at_s[request] + rules.overhead_s
        if enters_s >= until_s:
            break
        _run(state, rules, enters_s)
        cursor[0] += 1
        window = _window(state, rules, enters_s)
        state.counts.arrivals[window] += 1
        state.counts.prompt_tokens[window] += requests.prompt_tokens[request]
        _dispatch(state, request, enters_s)
    _run(state, rules, until_s)


@_compiled
def _run(state: State, rules: Rules, until_s: float) -> None:
    """Begin every step that begins before `until_s`."""
    replicas = state.replicas
    _welcome(state, until_s)
    for replica in range(replicas.phase.size):
        if replicas.phase[replica] < READY:
            continue
        while replicas.clock_s[replica] < until_s and _is_busy(replicas, replica):
            _step(state, rules, replica)
        if replicas.phase[replica] == DRAINING and not _is_busy(replicas, replica):
            replicas.phase[replica] = ABSENT


@_compiled
def _welcome(state: State, until_s: float) -> None:
    """Replicas that have become ready take what waits for one."""
    requests, replicas, cursor = state.requests, state.replicas, state.cursor
    first_s = np.inf
    for replica in range(replicas.phase.size):
        if replicas.phase[replica] == STARTING and replicas.ready_s[replica] <= until_s:
            replicas.phase[replica] = READY
            replicas.clock_s[replica] = replicas.ready_s[replica]
            first_s = min(first_s, replicas.ready_s[replica])
    while first_s < np.inf and cursor[1] != NONE:
        request = cursor[1]
        cursor[1] = requests.next[request]
        _dispatch(state, request, first_s)


@_compiled
def _is_busy(replicas: Replicas, replica: int) -> bool:
    return bool(replicas.num_queued[replica] > 0 or replicas.num_running[replica] > 0)


@_compiled
def _dispatch(state: State, request: int, at_s: float) -> None:
    """Give the request to the replica with the fewest tokens before it, or let it wait for one."""
    replicas, cursor = state.replicas, state.cursor
    best, fewest = NONE, 0
    for replica in range(replicas.phase.size):
        if replicas.phase[replica] == READY:
            tokens = replicas.waiting_tokens[replica] + replicas.num_running[replica]
            if best == NONE or tokens < fewest:
                best, fewest = replica, tokens
    if best != NONE:
        _enqueue(state, best, request, at_s)
        return
    if cursor[1] == NONE:
        cursor[1] = request
    else:
        state.requests.next[cursor[2]] = request
    cursor[2] = request
    state.requests.next[request] = NONE


@_compiled
def _enqueue(state: State, replica: int, request: int, at_s: float) -> None:
    requests, replicas = state.requests, state.replicas
    if not _is_busy(replicas, replica):
        replicas.clock_s[replica] = max(replicas.clock_s[replica], at_s)  # it was idle
    requests.next[request] = NONE
    if replicas.head[replica] == NONE:
        replicas.head[replica] = request
    else:
        requests.next[replicas.tail[replica]] = request
    replicas.tail[replica] = request
    replicas.num_queued[replica] += 1
    replicas.waiting_tokens[replica] += requests.prompt_tokens[request]


@_compiled
def _step(state: State, rules: Rules, replica: int) -> None:
    """One engine step: a token for each running sequence, and as much of the prompts as fits."""
    requests, replicas, counts = state.requests, state.replicas, state.counts
    num_decodes = replicas.num_running[replica]
    budget = max(rules.max_batched_tokens - num_decodes, 0)
    num_read, num_seen, first, last = 0, 0.0, replicas.head[replica], NONE
    while budget > num_read and replicas.head[replica] != NONE:
        request = replicas.head[replica]
        if replicas.head_read[replica] == 0:
            needed = _held_tokens(requests, rules, request)
            is_alone = replicas.reserved_tokens[replica] == 0
            has_room = replicas.reserved_tokens[replica] + needed <= rules.kv_tokens
            if replicas.num_running[replica] >= rules.max_sequences or not (has_room or is_alone):
                break
            replicas.reserved_tokens[replica] += needed
        part = min(budget - num_read, requests.prompt_tokens[request] - replicas.head_read[replica])
        num_read += part
        num_seen -= _seen_by_prompt(rules, replicas.head_read[replica])
        replicas.head_read[replica] += part
        num_seen += _seen_by_prompt(rules, replicas.head_read[replica])
        if replicas.head_read[replica] < requests.prompt_tokens[request]:
            break
        replicas.head[replica] = requests.next[request]
        replicas.head_read[replica] = 0
        replicas.num_queued[replica] -= 1
        replicas.num_running[replica] += 1
        last = request
    replicas.peak_running[replica] = max(
        replicas.peak_running[replica], replicas.num_running[replica]
    )
    seconds = (
        rules.step_s
        + num_read * rules.prefill_s_per_token
        + num_decodes * rules.decode_s_per_sequence
        + replicas.context_tokens[replica] * rules.attention_s_per_token
        + num_seen * rules.prompt_attention_s
    )
    end_s = replicas.clock_s[replica] + seconds
    replicas.clock_s[replica] = end_s
    replicas.waiting_tokens[replica] -= num_read
    window = _window(state, rules, end_s)
    counts.gaps[window] += num_decodes
    state.gap_histogram[_gap_bin(seconds)] += num_decodes
    if seconds > rules.good_itl_s:
        counts.long_gaps[window] += num_decodes
    _end_sequences(state, rules, replica, end_s)
    request = first
    while last != NONE:
        following = requests.next[request]
        _begin_sequence(state, rules, replica, request, end_s)
        if request == last:
            break
        request = following
    replicas.num_steps[replica] += 1


@_compiled
def _end_sequences(state: State, rules: Rules, replica: int, end_s: float) -> None:
    """The requests whose last token comes with this step."""
    replicas = state.replicas
    slot = replicas.num_steps[replica] % replicas.ending.shape[1]
    request = replicas.ending[replica, slot]
    replicas.ending[replica, slot] = NONE
    while request != NONE:
        following = state.requests.next[request]
        _end(state, rules, replica, request, end_s)
        request = following


@_compiled
def _begin_sequence(state: State, rules: Rules, replica: int, request: int, end_s: float) -> None:
    """The request's first token comes with this step."""
    requests, replicas = state.requests, state.replicas
    requests.first_token_s[request] = end_s
    window = _window(state, rules, end_s)
    state.counts.first_tokens[window] += 1
    if end_s - requests.at_s[request] > rules.good_ttft_s:
        state.counts.late_first_tokens[window] += 1
    replicas.context_tokens[replica] += _attended_tokens(requests, rules, request)
    left = requests.output_tokens[request] - 1
    if left == 0:
        _end(state, rules, replica, request, end_s)
        return
    slot = (replicas.num_steps[replica] + left) % replicas.ending.shape[1]
    requests.next[request] = replicas.ending[replica, slot]
    replicas.ending[replica, slot] = request


@_compiled
def _end(state: State, rules: Rules, replica: int, request: int, end_s: float) -> None:
    requests, replicas = state.requests, state.replicas
    requests.end_s[request] = end_s
    replicas.num_running[replica] -= 1
    replicas.context_tokens[replica] -= _attended_tokens(requests, rules, request)
    replicas.reserved_tokens[replica] -= _held_tokens(requests, rules, request)
    ended_in = _window(state, rules, end_s)
    state.counts.output_tokens[ended_in] += requests.output_tokens[request]


@_compiled
def _held_tokens(requests: Requests, rules: Rules, request: int) -> int:
    """What the KV cache holds of the request at its end, on average over the layers."""
    tokens = requests.prompt_tokens[request] + requests.output_tokens[request]
    return _over_layers(rules, tokens, rules.held_window_tokens)


@_compiled
def _attended_tokens(requests: Requests, rules: Rules, request: int) -> int:
    """What each new token attends to, on average over the answer and the layers."""
    tokens = requests.prompt_tokens[request] + requests.output_tokens[request] // 2
    return _over_layers(rules, tokens, rules.window_tokens)


def seen_by_prompts(rules: Rules, num_read: Any) -> Any:
    """How many tokens those that are read of a prompt have seen, all of them together, on average
    over the layers: of one prompt, or [num_prompts]."""
    in_window = np.minimum(num_read, rules.window_tokens)
    windowed = in_window * (num_read - in_window / 2)
    return windowed + rules.full_ratio * (num_read * (num_read / 2) - windowed)


_seen_by_prompt = _compiled(seen_by_prompts)


@_compiled
def _over_layers(rules: Rules, tokens: int, most_in_window: int) -> int:
    in_window = min(tokens, most_in_window)
    return int(in_window + rules.full_ratio * (tokens - in_window))


@_compiled
def _gap_bin(seconds: float) -> int:
    if seconds <= SHORTEST_GAP_S:
        return 0
    number = math.ceil(math.log(seconds / SHORTEST_GAP_S) / math.log(GAP_BIN_RATIO))
    return min(number, NUM_GAP_BINS - 1)


@_compiled
def _window(state: State, rules: Rules, at_s: float) -> int:
    """What happens after the last window counts in that."""
    return min(int(at_s / rules.window_s), state.counts.gaps.size - 1)
