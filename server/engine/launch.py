"""How to start vLLM 0.24 to 0.33: its command line and its variables, decided without touching anything.

Run for real: 0.32 on a CPU and 0.24 on CUDA; for the versions between and 0.33 only these lines are tested.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from server.config import StackSettings
from server.engine.device import DeviceKind, Machine
from server.engine.environment import CLI_ENTRY, EngineEnvironment, clean_environ
from server.engine.errors import EngineError
from server.engine.models import Model
from server.gateway.access import is_loopback
from server.keys import VLLM_KEY, engine_key, secret_among

OLDEST = (0, 24)
SHUTDOWN_TIMEOUT_S = 2
"""Seconds vLLM may drain after SIGTERM; we want it gone, not polite."""
LATENCY_EDGES_S = (
    0.02,
    0.05,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1.0,
    1.5,
    2.0,
    3.0,
    4.0,
    6.0,
    8.0,
    12.0,
    20.0,
    40.0,
    120.0,
)
"""request_latency: queue, prefill, decode, inference, e2e. vLLM's own first edge is 0.3 s."""
TOKEN_EDGES_S = (
    *(0.002, 0.004, 0.006, 0.008, 0.01, 0.0125, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0),
)
"""inter_token_latency. On an H100 96 % of all samples fall into vLLM's own first bucket (10 ms)."""

GPU_SEQUENCES = 64
CPU_SEQUENCES = 8
GPU_CONTEXT_TOKENS = 8192
CPU_CONTEXT_TOKENS = 2048
CPU_KV_GIB = 1
UNIFIED_MEMORY_SHARE = 0.8
"""GPU and host share the memory on GB10, and vLLM's default can wedge the machine."""


@dataclass(frozen=True)
class Features:
    """What this version can do for us."""

    in_band_times: bool
    """Per-request queue, prefill and decode times on the usage chunk (>= 0.27)."""
    otlp_times: bool
    """The same as one span a request, where in-band times are missing."""
    fine_buckets: bool
    """Histogram edges of our choice (>= 0.32)."""
    mfu: bool
    """Estimated FLOPs and bytes move (a GPU's peak is needed to make sense of them)."""

    @property
    def stage_times(self) -> Literal["in-band", "otlp", "windowed"]:
        """How per-request engine times are had, as the snapshot names it."""
        return "in-band" if self.in_band_times else "otlp" if self.otlp_times else "windowed"


@dataclass(frozen=True)
class LaunchPlan:
    """One start of vLLM."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    """All variables of the child, not additions."""
    features: Features
    url: str
    served_name: str
    max_num_seqs: int
    max_model_len: int
    device: DeviceKind


def find_features(environment: EngineEnvironment, device: DeviceKind) -> Features:
    """What a version has, by its number alone."""
    in_band = environment.version >= (0, 27, 0)
    return Features(
        in_band_times=in_band,
        otlp_times=not in_band and "opentelemetry.exporter.otlp.proto.http" in environment.modules,
        fine_buckets=environment.version >= (0, 32, 0),
        mfu=device == "cuda",
    )


def entry(environment: EngineEnvironment) -> list[str]:
    """The command that starts a server. `vllm serve` asks for the metadata of a distribution named vllm; modules don't."""
    if not environment.entries:
        raise EngineError(f"vLLM {environment.vllm_version} in {environment.python} has no server that can be started.")
    module = environment.entries[0]
    return [environment.python, "-m", module, *(["serve"] if module == CLI_ENTRY else [])]


def plan(
    environment: EngineEnvironment,
    model: Model,
    settings: StackSettings,
    machine: Machine,
    otlp_endpoint: str | None,
    base_env: Mapping[str, str],
) -> LaunchPlan:
    """The whole start. `base_env` is what the child inherits. Raises EngineError when this cannot run here."""
    check_arguments(settings)
    if environment.version[:2] < OLDEST:
        raise EngineError(f"vLLM {environment.vllm_version} is too old; 0.24 or newer is needed.")
    device = _device(environment, settings, machine)
    features = find_features(environment, device)
    sequences = given(settings.engine_args, "--max-num-seqs") or settings.max_num_seqs
    sequences = sequences or (GPU_SEQUENCES if device == "cuda" else CPU_SEQUENCES)
    context = given(settings.engine_args, "--max-model-len") or settings.max_model_len or _context(model, device)
    argv = entry(environment)
    model_argument = [model.source] if argv[-1] == "serve" else ["--model", model.source]
    argv += [*model_argument, "--served-model-name", model.display, *model.args]
    argv += ["--host", settings.engine_host, "--port", str(settings.engine_port)]
    argv += ["--max-num-seqs", str(sequences), "--max-model-len", str(context)]
    if settings.knobs.max_num_queued_reqs is not None and environment.version < (0, 32, 0):
        raise EngineError(f"vLLM {environment.vllm_version} has no --max-num-queued-reqs; 0.32 or newer is needed.")
    argv += settings.knobs.arguments
    if settings.revision is not None:
        if model.kind != "hub":
            raise EngineError(f"--revision is for a model of the hub, and {model.display} is none.")
        argv += ["--revision", settings.revision]
    if settings.trust_remote_code:
        argv += ["--trust-remote-code"]
    argv += ["--disable-uvicorn-access-log", "--shutdown-timeout", str(SHUTDOWN_TIMEOUT_S)]
    if features.in_band_times:
        argv += ["--enable-per-request-metrics"]  # on the usage chunk, which the gateway asks for
    if features.otlp_times and otlp_endpoint is not None:
        argv += ["--otlp-traces-endpoint", otlp_endpoint]
    if features.fine_buckets:
        argv += ["--custom-histogram-buckets", _buckets()]
    if features.mfu:
        argv += ["--enable-mfu-metrics"]
    if device == "cpu":
        argv += ["--enforce-eager"]  # compiling takes 100 s on two cores and wins little there
        if not machine.fast_bf16:
            argv += ["--dtype", "float32"]
    elif machine.unified:
        argv += ["--gpu-memory-utilization", str(UNIFIED_MEMORY_SHARE)]
    argv += settings.engine_args  # last, so that they win
    return LaunchPlan(
        argv=tuple(argv),
        env=_environ(environment, model, features, machine, device, base_env),
        features=features,
        url=f"http://{reachable(settings.engine_host)}:{settings.engine_port}",
        served_name=given_text(settings.engine_args, "--served-model-name") or model.display,
        max_num_seqs=sequences,
        max_model_len=context,
        device=device,
    )


def check_arguments(settings: StackSettings) -> None:
    """Raises EngineError for an argument that would show a secret, or open the engine to other machines."""
    secret = secret_among(settings.engine_args)
    if secret is not None:
        flag, variable = secret
        raise EngineError(f"A command line is public: give the value of {flag} in the variable {variable} instead.")
    host = given_text(settings.engine_args, "--host") or settings.engine_host
    if not is_loopback(host):
        raise EngineError(
            f"The engine is not to listen on {host}, where its controls are open; --host opens the gateway, which has a key."
        )


def given_text(arguments: list[str], flag: str) -> str | None:
    """The last value of `--flag V` or `--flag=V` among arguments a person passed on."""
    value = None
    for position, argument in enumerate(arguments):
        if argument == flag and position + 1 < len(arguments):
            value = arguments[position + 1]
        elif argument.startswith(f"{flag}="):
            value = argument.partition("=")[2]
    return value


def given(arguments: list[str], flag: str) -> int | None:
    """As given_text, for a whole number; None if it is not one."""
    value = given_text(arguments, flag)
    return int(value) if value is not None and value.isdigit() and int(value) > 0 else None


def _device(environment: EngineEnvironment, settings: StackSettings, machine: Machine) -> DeviceKind:
    if settings.device == "cpu" and environment.device == "cuda":
        raise EngineError("This vLLM is built for NVIDIA GPUs; run `spark-serve engine install --cpu` for the CPU.")
    if settings.device == "cuda" and environment.device == "cpu":
        raise EngineError("This vLLM is built for the CPU; run `spark-serve engine install --cuda` for the GPU.")
    if environment.device == "cuda" and not machine.gpus:
        raise EngineError(
            f"This vLLM needs an NVIDIA GPU and there is none ({machine.why}); run `spark-serve engine install --cpu`."
        )
    return environment.device


def _context(model: Model, device: DeviceKind) -> int:
    default = GPU_CONTEXT_TOKENS if device == "cuda" else CPU_CONTEXT_TOKENS
    return default if model.context_tokens is None else min(default, model.context_tokens)


def _buckets() -> str:
    edges = {"request_latency": LATENCY_EDGES_S, "inter_token_latency": TOKEN_EDGES_S}
    return json.dumps(edges, separators=(",", ":"))


def reachable(host: str) -> str:
    """The address to talk to a server that listens on `host`."""
    if host in {"0.0.0.0", "", "::"}:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _environ(
    environment: EngineEnvironment,
    model: Model,
    features: Features,
    machine: Machine,
    device: DeviceKind,
    base: Mapping[str, str],
) -> dict[str, str]:
    """A person's own settings win over ours, but for the tracing that we receive ourselves."""
    env = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if model.offline:
        env["HF_HUB_OFFLINE"] = "1"
    if device == "cpu":
        env["VLLM_CPU_KVCACHE_SPACE"] = str(CPU_KV_GIB)
        if machine.cores <= 2:
            env["VLLM_CPU_OMP_THREADS_BIND"] = "0"  # one core computes, one is left to the instruments
    elif "flashinfer" not in environment.modules:
        env["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
    if key := engine_key(base):
        env[VLLM_KEY] = key
    tracing: dict[str, str] = {}
    if features.otlp_times:
        tracing = {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf", "OTEL_BSP_SCHEDULE_DELAY": "500"}
    return {**env, **clean_environ(base, own=environment.origin == "installed"), **tracing}
