"""Every knob of the platform, as one frozen, validated tree.

Sections mirror packages. Unknown names are errors. `serving.adapters.settings_loader` reads YAML,
environment and `--set` into this tree once; everything else receives it as an argument.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

DEMO_SOURCE = "demo"
"""`weights.source` of the bundled demonstration model."""

ModelName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$", strip_whitespace=True)
]
PoolName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]
_HF_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
_COMMIT = r"^[0-9a-f]{40}$"
_SHA256 = r"^[0-9a-f]{64}$"
_OBJECT_SCHEMES = ("s3://", "gs://", "az://")
_OBJECT_URL = re.compile(
    r"(s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]*(/(?!\.{1,2}(/|$))[A-Za-z0-9._=+ -]+)*/?"
)
"""Bucket and prefix, with nothing that would be a credential, a query or another folder."""


class _Section(BaseModel):
    """Frozen, and closed to unknown names: a typo must not be a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class EndpointSettings(_Section):
    """Where clients connect (HAProxy's frontend)."""

    host: str = "127.0.0.1"
    """Address to listen on. `0.0.0.0` opens the endpoint to the network: put TLS in front."""
    port: int = Field(8000, ge=1, le=65535)
    """TCP port of the endpoint."""


class ClusterSettings(_Section):
    """The Ray cluster underneath."""

    address: str | None = None
    """Address of a running Ray cluster; `None` starts one on this machine that lives and dies
    with `galerne up`."""
    worker_niceness: int = Field(0, ge=0, le=19)
    """Scheduling niceness of Ray workers on a local cluster. Ray's default of 15 starves CPU
    engines beside any other busy process."""
    ready_timeout_s: float = Field(900.0, gt=0)
    """How long `galerne up` waits for every replica, and `galerne apply` for the next one, in
    seconds; covers a weight download."""


class LimitSettings(_Section):
    """What one request may cost before an engine sees it."""

    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1024)
    """Largest accepted request body."""
    max_header_bytes: int = Field(16 * 1024, ge=1024, le=32 * 1024)
    """Largest accepted request head, names and values together."""
    max_json_depth: int = Field(64, ge=4, le=256)
    """Deepest accepted nesting of arrays and objects. Must stay far below Python's recursion
    limit, which engines hit as a crash rather than an error."""
    upload_timeout_s: float = Field(20.0, gt=0)
    """Time a client has to send its body, plus one second for each `min_upload_bytes_per_s`."""
    min_upload_bytes_per_s: int = Field(64 * 1024, ge=1)
    """Slowest accepted upload once `upload_timeout_s` has passed."""
    header_timeout_s: int = Field(10, ge=1, le=300)
    """Time a client has to send its request head, enforced by HAProxy."""
    stalled_read_timeout_s: float = Field(60.0, gt=0)
    """A client that accepts no bytes for this long is disconnected and its generation aborted."""
    max_values: int = Field(8192, ge=64)
    """Values in the lists and objects of a body, token ids apart: 800 turns of an agent with tool
    calls. An engine checks values on its event loop, which stands still 0.3 ms for each message
    made to hurt it."""
    max_choices: int = Field(64, ge=1)
    """Answers one request may ask for: `n` times its prompts. Each is a sequence of its own but all
    count as one request, so this is a quarter of what an engine decodes together by default."""
    max_inputs: int = Field(2048, ge=1)
    """Texts that one request may have embedded, scored or ranked. OpenAI accepts as many."""
    max_schema_bytes: int = Field(64 * 1024, ge=1024)
    """Longest JSON schema, grammar, regular expression or list of choices, and description of one
    tool."""
    max_schema_repeat: int = Field(10_000, ge=1)
    """Repetitions in such a schema, summed over minItems, maxItems and the {n,m} of patterns. Some
    compilers write each one out: 10,000 cost 2 MB and 50 ms, a billion all memory there is."""
    max_journal_bytes: int = Field(1024 * 1024, ge=0)
    """Kept of each stream, so that another replica can go on with it: 15 bytes a token. A longer
    stream ends with an error if its replica is lost; 0 lets each do so."""
    max_tokenize_bytes: int = Field(1024 * 1024, ge=1024)
    """Largest body of `/tokenize` and `/detokenize`, 250k tokens: engines tokenize without looking
    at the context length first, 1.6 s of CPU per MiB beside the requests they serve."""


class GatewaySettings(_Section):
    """The ingress replicas: authenticate, choose a replica, relay bytes."""

    replicas: int = Field(1, ge=1, le=256)
    """Gateway processes behind HAProxy."""
    pool: PoolName | None = None
    """Nodes they run on: those that offer Ray resource `pool:NAME`. `None` takes any node."""
    max_per_node: int | None = Field(None, ge=1)
    """Most gateways on one node; those that find no place wait for a node. `None` leaves it to Ray,
    which spreads them roughly; 1 with as many `replicas` as nodes puts one on each. With a limit
    there is no room for new gateways beside the old: a change replaces one in five at a time."""
    max_concurrent_requests: int = Field(4096, ge=1)
    """Requests one gateway replica holds at once; more get 503 from Serve's backpressure."""
    engine_connect_timeout_s: float = Field(5.0, gt=0)
    """Time to open a connection to an engine replica before another one is tried."""
    engine_silence_timeout_s: float = Field(600.0, gt=0)
    """Longest accepted silence of an engine, before the first byte and between bytes."""
    max_queued_requests: int = Field(4096, ge=0)
    """Requests that one gateway lets wait per model while every replica is at its limit; more get
    429 with `Retry-After`, those of tenants with the most of them first."""
    queue_timeout_s: float = Field(120.0, ge=0)
    """How long such a request waits for room before it gets 429 too. Tenants share what room there
    is, and requests that have waited for half of `slo.ttft_s` let newer ones go first. Set to that
    half, what would be late is refused instead, crowds included; as shipped, it waits."""
    no_replica_wait_s: float = Field(10.0, ge=0)
    """How long a request waits for a model that has no running replica before it gets 503."""
    max_index_entries: int = Field(2_000_000, ge=1000)
    """Cached KV blocks of engines that one gateway remembers per model, each counted once for every
    replica that holds it; about 250 bytes each."""
    key_refresh_s: float = Field(1.0, gt=0, le=5.0)
    """How often the key store is looked at; bounds how long a revoked key still works."""
    limits: LimitSettings = LimitSettings()


class WeightSettings(_Section):
    """Where a model's files come from and how they are trusted."""

    source: str
    """`demo`, a local folder (absolute, or beginning with `./` or `~/`), a Hugging Face id
    `owner/name`, or object storage: `s3://BUCKET/PREFIX`, `gs://…`, `az://…`. docs/weights.md tells
    where the credentials come from."""
    revision: str | None = Field(None, pattern=_COMMIT)
    """Commit of a Hugging Face repository, 40 hex digits. Required for Hugging Face ids: a branch
    or tag can be moved under you."""
    sha256_manifest: Path | None = None
    """File in `sha256sum` format that lists every weight file, paths relative to the model folder.
    `None` trusts the source, unless `manifest_sha256` is set. Any mismatch, missing or unlisted
    weight file refuses to start."""
    manifest_sha256: str | None = Field(None, pattern=_SHA256)
    """SHA-256 of the manifest itself, 64 hex digits: `sha256sum SHA256SUMS`. The manifest may then
    come with the model, as `SHA256SUMS` in its folder, if `sha256_manifest` names no other file.
    Object storage needs this or `sha256_manifest`: objects can be replaced under you. `None` takes
    the manifest as it is."""

    @property
    def is_local(self) -> bool:
        return self.source.startswith(("/", "./", "../", "~"))

    @property
    def is_object_storage(self) -> bool:
        return self.source.startswith(_OBJECT_SCHEMES)

    @property
    def is_on_hub(self) -> bool:
        """Whether the source is a Hugging Face id."""
        return not (self.source == DEMO_SOURCE or self.is_local or self.is_object_storage)

    @model_validator(mode="after")
    def _source_is_pinned(self) -> Self:
        if self.is_on_hub:
            self._check_hub_id()
        elif self.revision is not None:
            raise ValueError("revision applies to Hugging Face ids only; remove it")
        if self.is_object_storage:
            self._check_object_url()
        return self

    def _check_hub_id(self) -> None:
        if not _HF_ID.match(self.source):
            raise ValueError(
                f"source {self.source!r} is neither 'demo', a folder (/…, ./…, ~/…), object "
                "storage (s3://…, gs://…, az://…) nor a Hugging Face id owner/name"
            )
        if self.revision is None:
            raise ValueError("a Hugging Face source needs revision: the commit, 40 hex digits")

    def _check_object_url(self) -> None:
        if not _OBJECT_URL.fullmatch(self.source):
            raise ValueError("source must be bucket and prefix only, as in s3://BUCKET/PREFIX")
        if self.manifest_sha256 is None and self.sha256_manifest is None:
            raise ValueError(
                "an object storage source needs manifest_sha256: what `sha256sum SHA256SUMS` "
                "prints for the model's manifest (or sha256_manifest: a local copy of it)"
            )


class EngineSettings(_Section):
    """How vLLM runs one replica of a model."""

    max_model_len: int | None = Field(None, ge=16)
    """Longest prompt plus completion, in tokens. `None` takes the model's own limit."""
    max_num_seqs: int = Field(256, ge=1)
    """Sequences decoded together."""
    max_num_batched_tokens: int | None = Field(None, ge=16)
    """Tokens per engine step, which is the prefill chunk size. A sliding-window layer holds
    `window - 1 + max_num_batched_tokens` tokens per request, so on windowed models a small chunk
    is what makes the window's saving real. `None` takes half a window on such models, if that
    makes room for more sequences (ADR 18), and vLLM's default on all others."""
    block_size: int | None = Field(None, ge=8, le=256)
    """Tokens per KV block. `None` takes vLLM's default for the device."""
    kv_cache_gib: float | None = Field(None, gt=0)
    """KV cache per replica, in GiB. `None` derives it from free device memory."""
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    """Share of each GPU that vLLM may use; ignored on CPU."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Weight and activation type."""
    enforce_eager: bool = False
    """Skip graph capture and compilation: slower decode, much faster start."""
    tokenizer_mode: Literal["auto", "mistral"] = "auto"
    """`mistral` for models published in Mistral's own format."""
    config_format: Literal["auto", "hf", "mistral"] = "auto"
    """Format of the model's configuration files."""
    load_format: Literal["auto", "safetensors", "mistral"] = "auto"
    """Format of the weight files."""
    tool_call_parser: str | None = None
    """vLLM's tool-call parser, for example `mistral`; `None` turns tool parsing off."""
    reasoning_parser: str | None = None
    """vLLM's reasoning parser, for example `mistral`; `None` turns it off."""
    tensor_parallel_size: int = Field(1, ge=1, le=64)
    """GPUs that share each layer; one node's NVLink domain is the sensible maximum."""
    pipeline_parallel_size: int = Field(1, ge=1, le=64)
    """Stages of layers, each on its own group of `tensor_parallel_size` GPUs."""
    hang_timeout_s: float = Field(60.0, gt=0)
    """A replica that has requests and finishes no engine step for this long is replaced."""
    extra_args: dict[str, str | int | float | bool | list[str]] = Field(default_factory=dict)
    """Further vLLM server options by their command-line name without the dashes, for example
    `{seed: 1}`. Options that Galerne owns (model, host, port, api-key, …) are refused."""

    @property
    def num_gpus(self) -> int:
        """GPUs of one replica, where it runs on GPUs."""
        return self.tensor_parallel_size * self.pipeline_parallel_size


class ResourceSettings(_Section):
    """What one engine replica reserves in the Ray cluster."""

    device: Literal["cpu", "gpu"] = "gpu"
    """`gpu` reserves `tensor_parallel_size * pipeline_parallel_size` GPUs."""
    accelerator_type: str | None = None
    """Ray accelerator type, for example `H100`; `None` takes any GPU."""
    pool: PoolName | None = None
    """Nodes the replicas run on: those that offer Ray resource `pool:NAME`, on Kubernetes a worker
    group of the chart. `None` takes any node with room."""
    num_cpus: float = Field(1.0, ge=0)
    """CPU cores reserved per placement bundle. 0 reserves nothing and lets replicas share. On
    device `cpu` also the number of compute threads; below 1 that is every core but one."""


class TimingSettings(_Section):
    """How long a simulated engine step takes, as a linear model of what the step computes.

    `step_s + prefill_tokens / prefill_tokens_per_s + sequences * decode_s_per_sequence +
    context_tokens * attention_s_per_token`. `galerne sim calibrate` measures these on an engine.
    The defaults are of the order of a 7B model on one data-centre GPU.
    """

    step_s: float = Field(0.008, ge=0, le=60)
    """Seconds per step, whatever it computes: reading the weights, scheduling, launching. An engine
    whose steps take longer than `engine.hang_timeout_s` counts as hung, and is replaced."""
    prefill_tokens_per_s: float = Field(20_000.0, gt=0)
    """Prompt tokens computed per second, beside the seconds per step."""
    decode_s_per_sequence: float = Field(0.00005, ge=0, le=60)
    """Seconds per sequence that generates a token in the step."""
    attention_s_per_token: float = Field(2e-8, ge=0, le=1)
    """Seconds per token that a generating sequence attends to; a sliding window bounds them."""
    overhead_s: float = Field(0.002, ge=0, le=60)
    """Seconds between a request's arrival and its first step: parsing, tokenizing."""
    jitter: float = Field(0.0, ge=0, le=2)
    """Standard deviation of the logarithm of a step's seconds."""


class SimulatorSettings(_Section):
    """An engine replica that keeps vLLM's rules and accounts but has no model: it waits as long as
    the timing says and answers with made-up words. For trying, sizing and testing fleets."""

    timing: TimingSettings = TimingSettings()
    kv_blocks: int = Field(4096, ge=2, le=10_000_000)
    """KV blocks of the simulated cache, vLLM's null block included."""
    sliding_window: int | None = Field(None, ge=1)
    """Attention window in tokens; `None` is full attention."""
    answer_tokens: int = Field(128, ge=1)
    """Mean length of an answer that no `max_tokens` cuts short and no `ignore_eos` prolongs."""
    start_s: float = Field(1.0, ge=0, le=3600)
    """Seconds a replica takes to become ready: image, weights, warm-up."""
    seed: int = Field(0, ge=0)
    """The same seed and the same requests give the same answers and, step by step, the same
    times."""


class RoutingWeights(_Section):
    """How much each reason counts for `kv_aware`; each is worth 0 to 1 for every replica.
    `serving/routing/scorers.py` says why each is there."""

    ttft: float = Field(1.0, ge=0, le=1000)
    """The shortest predicted TTFT, which is the queue and the part of the prompt to compute."""
    prefix_hit: float = Field(3.0, ge=0, le=1000)
    """The share of the prompt that the replica has cached."""
    kv_headroom: float = Field(0.5, ge=0, le=1000)
    """Room in the KV cache for prompt and answer."""
    lora: float = Field(1.0, ge=0, le=1000)
    """The request's adapter is loaded."""
    session: float = Field(0.1, ge=0, le=1000)
    """The replica is the session's own."""
    locality: float = Field(0.02, ge=0, le=1000)
    """The replica is on the gateway's node."""

    @model_validator(mode="after")
    def _has_a_reason(self) -> Self:
        if not any(self.model_dump().values()):
            raise ValueError("weights: at least one must be above 0")
        return self


class RoutingSettings(_Section):
    """How gateways choose among a model's replicas."""

    policy: Literal[
        "kv_aware", "prefix_approx", "least_tokens", "power_of_two", "round_robin", "session"
    ] = "kv_aware"
    """`kv_aware`: by cached prefix, queue and room, as `weights` say. `prefix_approx`: the same,
    for engines that do not tell what they have cached, by what was routed to them. `least_tokens`:
    where the fewest prompt tokens and requests wait. `power_of_two`: the less loaded of two at
    random. `session`: requests of one session (`prompt_cache_key`, the header `x-session-id`, or
    `user`) go to the same replica. `round_robin`: each in turn."""
    weights: RoutingWeights = RoutingWeights()
    warm_up_s: float = Field(10.0, ge=0, le=3600)
    """For so long a new replica gets no more than a growing share of the others' load."""


class SloSettings(_Section):
    """What a model's users are promised; counted by gateways, kept by the scaling policy."""

    ttft_s: float = Field(2.0, gt=0, le=3600)
    """Longest good time to the first token of a stream, in seconds."""
    itl_s: float = Field(0.08, gt=0, le=3600)
    """Longest good time between two parts of a stream, in seconds."""
    objective_ratio: float = Field(0.99, gt=0, lt=1)
    """Share of first tokens, and of times between tokens, that are to be good."""


class CapacitySettings(_Section):
    """What one replica can do within the SLO; `galerne lab capacity` prints it."""

    prompt_token_s: float = Field(gt=0, le=60)
    """Seconds of a replica that one token of a prompt takes."""
    output_token_s: float = Field(gt=0, le=60)
    """Seconds of a replica that one token of an answer takes beside the others of its step."""
    usable_ratio: float = Field(0.8, gt=0, le=1)
    """Share of a large fleet's time that may be taken so."""
    spread: float = Field(0.5, ge=0, le=10)
    """Replicas that random arrivals call for beside that, times the root of the busy ones."""


class ScalingSettings(_Section):
    """How many replicas a model has, decided every five seconds; `galerne lab scaling` tries it."""

    min_replicas: int = Field(1, ge=0, le=1024)
    """Never fewer. 0 lets an unused model have none: the next request waits for a cold start."""
    max_replicas: int = Field(ge=1, le=1024)
    """Never more."""
    spares: int = Field(0, ge=0, le=64)
    """Replicas kept ready beyond those that are needed."""
    max_step: int = Field(64, ge=1, le=1024)
    """At most so many more at once."""
    cold_start_s: float = Field(120.0, gt=0, le=7200)
    """From a replica's order until it is ready, in seconds; until the platform has seen its own."""
    quantile: float = Field(0.85, ge=0, le=1)
    """Caution: how often the forecast of demand shall be enough. More costs replicas."""
    idle_s: float = Field(900.0, gt=0)
    """Seconds without a request after which the last replica goes, if `min_replicas` is 0."""
    wake_wait_s: float = Field(300.0, ge=0, le=3600)
    """How long a request waits for a model that has none, in seconds, before it gets 503. SDKs
    wait 600 s by default."""
    floors: dict[str, int] = Field(default_factory=dict)
    """Fewest replicas while tenants of a class (`tenancy.classes`) use the model: so many from the
    class's first request until a quarter of an hour after its last."""
    capacity: CapacitySettings | None = None
    """What one replica can do. Required, but for a simulated engine, whose timing says it."""

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas ({self.min_replicas}) is above max_replicas ({self.max_replicas})"
            )
        if self.spares > self.max_replicas:
            raise ValueError(f"spares ({self.spares}) is above max_replicas ({self.max_replicas})")
        for name, floor in self.floors.items():
            if not 1 <= floor <= self.max_replicas:
                raise ValueError(f"floors.{name} must be 1 to max_replicas ({self.max_replicas})")
        return self


class AutoscalerSettings(_Section):
    """What the scaling of all models has in common."""

    prometheus_url: str | None = Field(None, pattern=r"^https?://[^@/]+(/[^@]*)?$")
    """Prometheus that scrapes this platform, and no other one with models of the same names, for
    example `http://127.0.0.1:9090`. `None` takes the environment's `RAY_PROMETHEUS_HOST`; without
    either, replicas' own reports decide, which know no latencies and no tenants. The variable
    `RAY_PROMETHEUS_HEADERS` holds headers for it, as a JSON object."""
    gpu_budget: int | None = Field(None, ge=1)
    """GPUs that all scaled models may hold together; when they want more, those with the greatest
    need and the worst latencies come first. `None` leaves the limit to the cluster."""


class ModelSettings(_Section):
    """One model behind the endpoint."""

    weights: WeightSettings | None = None
    """The model's files. Required, but for a simulated engine, which takes its tokenizer and chat
    template from them if they are given."""
    simulator: SimulatorSettings | None = None
    """Simulate the engine instead of running vLLM."""
    replicas: int = Field(1, ge=1, le=1024)
    """Engine replicas; with `scaling`, those of the first start."""
    scaling: ScalingSettings | None = None
    """Let load decide the number of replicas; `None` keeps `replicas`."""
    slo: SloSettings = SloSettings()
    adapters: dict[ModelName, Path] = Field(default_factory=dict)
    """LoRA adapters by the name clients put in `model`, each a local folder."""
    engine: EngineSettings = EngineSettings()
    resources: ResourceSettings = ResourceSettings()
    routing: RoutingSettings = RoutingSettings()
    max_concurrent_requests: int | None = Field(None, ge=1)
    """Requests one replica accepts at once, waiting ones included; others wait in gateways for
    whichever replica has room first. `None`: 9/8 of `engine.max_num_seqs`, so that an engine always
    has a next request at hand, and few wait where tenants and deadlines do not count."""
    drain_timeout_s: float = Field(600.0, ge=0)
    """How long a replica that was told to stop may finish its streams."""

    @model_validator(mode="after")
    def _has_a_model_to_run(self) -> Self:
        if self.weights is None and self.simulator is None:
            raise ValueError("weights is missing: where the model's files come from")
        return self

    @model_validator(mode="after")
    def _capacity_is_known(self) -> Self:
        if self.scaling and self.scaling.capacity is None and self.simulator is None:
            raise ValueError(
                "scaling.capacity is missing: `galerne sim calibrate` measures the engine, "
                "`galerne lab capacity` makes it a capacity"
            )
        return self

    @property
    def request_limit(self) -> int:
        """`max_concurrent_requests`, or what stands for `None`.

        >>> ModelSettings.model_validate({"weights": {"source": "demo"}}).request_limit
        288
        """
        return self.max_concurrent_requests or math.ceil(self.engine.max_num_seqs * 9 / 8)

    @property
    def num_gpus(self) -> int:
        """GPUs of one replica."""
        if self.resources.device == "cpu":
            return 0
        return self.engine.num_gpus


class PlannerSettings(_Section):
    """What `galerne plan` reckons with."""

    gpu_prices: dict[str, float] = Field(default_factory=dict)
    """Price of one GPU for an hour, in any currency, by the GPU's name in `galerne plan`, for
    example `{H100-80G: 2.5}`. Without one a plan names no cost."""

    @model_validator(mode="after")
    def _prices_are_positive(self) -> Self:
        for gpu, price in self.gpu_prices.items():
            if not 0 < price < float("inf"):
                raise ValueError(f"gpu_prices.{gpu} must be above 0")
        return self


class TenancySettings(_Section):
    """Who shares what."""

    cache_groups: dict[str, list[str]] = Field(default_factory=dict)
    """Tenants (names of API keys) that share cached prompts, by the name of their group. Others
    share with nobody: who can tell a cached prompt from a new one by its speed could guess what
    others have asked."""
    classes: dict[str, list[str]] = Field(default_factory=dict)
    """Tenants by class; `scaling.floors` of a model promises replicas to a class. Others are of no
    class."""

    @model_validator(mode="after")
    def _a_tenant_is_in_one_of_each(self) -> Self:
        for field in ("cache_groups", "classes"):
            tenants = [tenant for group in getattr(self, field).values() for tenant in group]
            if twice := [tenant for tenant in tenants if tenants.count(tenant) > 1]:
                raise ValueError(f"{field}: {twice[0]!r} is listed twice; a tenant has one")
        return self


class Settings(_Section):
    """The whole platform."""

    endpoint: EndpointSettings = EndpointSettings()
    cluster: ClusterSettings = ClusterSettings()
    gateway: GatewaySettings = GatewaySettings()
    tenancy: TenancySettings = TenancySettings()
    autoscaler: AutoscalerSettings = AutoscalerSettings()
    planner: PlannerSettings = PlannerSettings()
    models: dict[ModelName, ModelSettings] = Field(min_length=1)
    """Models by the name clients put in `model`."""

    @model_validator(mode="after")
    def _served_names_are_unique(self) -> Self:
        seen = set(self.models)
        for model_id, model in self.models.items():
            for adapter in model.adapters:
                if adapter in seen:
                    raise ValueError(
                        f"models.{model_id}.adapters.{adapter}: the name {adapter!r} is taken; "
                        "served names must be unique over models and adapters"
                    )
                seen.add(adapter)
        return self

    @model_validator(mode="after")
    def _floors_are_of_known_classes(self) -> Self:
        for model_id, model in self.models.items():
            for name in model.scaling.floors if model.scaling else ():
                if name not in self.tenancy.classes:
                    raise ValueError(
                        f"models.{model_id}.scaling.floors.{name}: tenancy.classes has no {name!r}"
                    )
        return self

    @model_validator(mode="after")
    def _least_replicas_fit_the_budget(self) -> Self:
        least = sum(
            model.num_gpus * model.scaling.min_replicas
            for model in self.models.values()
            if model.scaling
        )
        budget = self.autoscaler.gpu_budget
        if budget is not None and least > budget:
            raise ValueError(
                f"autoscaler.gpu_budget ({budget}) is less than min_replicas of all models take "
                f"({least})"
            )
        return self
