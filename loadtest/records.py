"""What is recorded of every request, and the file it is kept in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from loadtest.whole_file import whole_file

RECORDS_FILE = "records.parquet"

OUT_OF_SOCKETS = "generator_out_of_sockets"
"""Why a request was lost that the generator could not even send."""

GENERATOR_FAILED = "generator_failed"
"""Why a request was lost that the generator itself has a bug with."""

OWN_ERRORS = (OUT_OF_SOCKETS, GENERATOR_FAILED)
"""Errors that say nothing of the server."""


class Record(msgspec.Struct, array_like=True):
    """One request, sent or not. Times are in seconds.

    `session` and `turn` name it in every run of the workload; `traffic` the part of the workload,
    and `model` what it asked. `due_s` counts from the beginning of the run. Everything else counts
    from the moment it was due, not from that of sending, so that a generator that is late makes
    figures worse, never better: `ttft_s` to the first token, `latency_s` to the end of the answer.
    `send_lag_s` is how late it was sent.

    `planned_output_tokens` is the most that the answer was allowed, and with `ignore_eos` exactly
    what it was to have, whatever the model says. Anthropic's dialect knows no such order.

    `itl_s` holds the gaps between the parts of the answer that carried tokens, as packed float32;
    an engine may put several tokens into one part. Tokens are those that the server's usage names,
    `None` where it named none. `status` is 0 where no answer came. `error` is a short code, `None`
    for an answer that came whole; a request that the workload itself cancelled has `cancelled` and
    no error.
    """

    session: int
    turn: int
    traffic: str
    model: str
    is_stream: bool
    due_s: float
    send_lag_s: float
    planned_output_tokens: int
    ignore_eos: bool = False
    ttft_s: float | None = None
    latency_s: float | None = None
    itl_s: bytes = b""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    status: int = 0
    error: str | None = None
    retry_after_s: float | None = None
    request_id: str | None = None
    cancelled: bool = False


SCHEMA: dict[str, Any] = {
    "session": pl.Int64,
    "turn": pl.Int32,
    "traffic": pl.String,
    "model": pl.String,
    "is_stream": pl.Boolean,
    "due_s": pl.Float64,
    "send_lag_s": pl.Float64,
    "planned_output_tokens": pl.Int64,
    "ignore_eos": pl.Boolean,
    "ttft_s": pl.Float64,
    "latency_s": pl.Float64,
    "itl_s": pl.List(pl.Float32),
    "prompt_tokens": pl.Int64,
    "cached_tokens": pl.Int64,
    "output_tokens": pl.Int64,
    "status": pl.Int32,
    "error": pl.String,
    "retry_after_s": pl.Float64,
    "request_id": pl.String,
    "cancelled": pl.Boolean,
}
"""The columns of a frame of records, which are those of the file."""


def frame(records: Iterable[Record]) -> pl.DataFrame:
    """Records in the order in which they were due; `itl_s` as lists."""
    rows = [(*msgspec.structs.astuple(record),) for record in records]
    place = list(SCHEMA).index("itl_s")
    unpacked = [
        (*row[:place], np.frombuffer(row[place], np.float32), *row[place + 1 :]) for row in rows
    ]
    made = pl.DataFrame(unpacked, schema=SCHEMA, orient="row")
    return made.sort("due_s", "session", "turn")


def write(records: pl.DataFrame, folder: Path) -> None:
    """Keep records in a result's folder."""
    with whole_file(folder / RECORDS_FILE) as path:
        records.write_parquet(path)


def read(folder: Path) -> pl.DataFrame:
    """The records of a result's folder.

    Raises:
        OSError: there are none.
        ValueError: the file is damaged, or is of something else.
    """
    try:
        records = pl.read_parquet(folder / RECORDS_FILE)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{RECORDS_FILE} cannot be read: {error}") from error
    if records.schema != pl.Schema(SCHEMA):
        raise ValueError(f"{RECORDS_FILE} holds no records of a load test")
    return records
