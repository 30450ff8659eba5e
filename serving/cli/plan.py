"""`galerne plan`: what fits, and what is needed, before anything is started."""

from __future__ import annotations

import typer

from serving.cli.plan_calibrate import calibrate
from serving.cli.plan_deploy import plan
from serving.cli.plan_kv import kv

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
app.callback(
    invoke_without_command=True,
    epilog="Examples: `galerne plan --model mistral-7b-v0.1 --gpu H100-80G --trace azure_conv.csv "
    "--format azure --ttft-s 1 --itl-s 0.05` · `galerne plan --model ./ministral --gpu L40S "
    "--trace conversation.jsonl --format mooncake --slo slo.yaml --price 1.2 --picture plan.png "
    "--apply galerne.yaml`",
)(plan)
app.command(
    epilog="Examples: `galerne plan kv --config demo --kv-bytes 1GiB --max-model-len 4096 "
    "--chunk-tokens 256 --json` · `galerne plan kv --config ~/models/ministral/params.json "
    "--device gpu --kv-bytes 40GiB` · `galerne plan kv --config mistral-small-3.1-24b "
    "--device gpu --tensor-parallel 2 --kv-dtype fp8 --kv-bytes 40GiB --max-model-len 32768`"
)(kv)
app.command(
    epilog="Example: `galerne plan calibrate --url http://gpu-7:8000 --model mistral-7b "
    "--gpu H100-80G --chunk-tokens 2048 --out h100.yaml`"
)(calibrate)
