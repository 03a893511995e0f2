"""The logs are real: an H100 with vLLM 0.24, and two CPU cores with 0.32 (eager, and compiling); so are the failures."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from server.engine.coldstart import ColdStartLog
from server.engine.comparison import init_measured_s, took
from server.telemetry.snapshot import StartStage

DATA = Path(__file__).parents[1] / "data"
STAMP = re.compile(r"\d\d-\d\d (\d\d):(\d\d):(\d\d)")


def replay(name: str, began: float) -> ColdStartLog:
    """Feed a log as if each line came at its own stamp (seconds of that day)."""
    log, at = ColdStartLog(began), began
    for line in (DATA / name).read_text(encoding="utf-8").split("\n"):
        if found := STAMP.search(line):
            hour, minute, second = (int(part) for part in found.groups())
            at = hour * 3600.0 + minute * 60 + second
        log.feed(line, at)
    return log


def spans(stages: list[StartStage]) -> list[tuple[str, float, float]]:
    return [(stage.name, stage.begin_s, stage.end_s) for stage in stages if stage.end_s is not None]


def own(log: ColdStartLog) -> dict[str, float]:
    """vLLM's own figures by stage."""
    return {stage.name: stage.engine_s for stage in log.stages(1e9) if stage.engine_s is not None}


def assert_agreement(log: ColdStartLog) -> None:
    """Within 10 % or 1 s, and another second where the log's stamps are the clock."""
    stages = log.stages(1e9)
    pairs = [(took(stage), stage.engine_s) for stage in stages] + [(init_measured_s(stages), log.figures.init_s)]
    for ours, theirs in pairs:
        if theirs is not None:
            assert ours == pytest.approx(theirs, rel=0.1, abs=2.0)


def test_an_h100_start_has_all_its_stages() -> None:
    log = replay("vllm-0.24-h100-start.log", 14 * 3600 + 26 * 60 + 30.0)
    assert log.finished
    assert spans(log.stages(1e9)) == [
        ("spawn and imports", 0, 7),
        ("model inspection", 7, 31),
        ("engine spawn", 31, 54),
        ("worker spawn", 54, 57),
        ("weights", 57, 59),
        ("compile", 59, 93),
        ("first run", 93, 93),
        ("profile and KV", 93, 96),
        ("kernel warm-up", 96, 96),
        ("graph capture", 96, 103),
        ("warm-up", 103, 123),
        ("HTTP", 123, 125),
    ]
    figures = log.figures
    assert (figures.version, figures.weights_gib, figures.model_s) == ("0.24.0", 13.7, 2.482832)
    assert (figures.compile_s, figures.kv_gib, figures.kv_tokens) == (33.32, 58.09, 423_008)
    assert figures.batched_tokens == 8192
    assert (figures.graphs_s, figures.graphs_gib, figures.init_s) == (7.0, 1.0, 64.63)
    details = {stage.name: stage.detail for stage in log.stages(1e9)}
    assert details["profile and KV"] == "58.1 GiB · 423 008 tokens"
    assert own(log) == {"weights": 2.482832, "compile": 33.32, "first run": 0.74, "graph capture": 7.0}
    assert_agreement(log)


def test_an_eager_cpu_start_skips_what_it_does_not_do() -> None:
    log = replay("vllm-0.32-cpu-start.log", 17 * 3600 + 58 * 60 + 20.0)
    assert log.finished
    assert spans(log.stages(1e9)) == [
        ("spawn and imports", 0, 8),
        ("model inspection", 8, 18),
        ("engine spawn", 18, 27),
        ("worker spawn", 27, 38),
        ("weights", 38, 39),
        ("model set-up", 39, 41),
        ("profile and KV", 41, 41),
        ("warm-up", 41, 44),
        ("HTTP", 44, 46),
    ]
    assert (log.figures.version, log.figures.kv_gib, log.figures.kv_tokens) == ("0.32.0", 1.0, 46_592)
    assert (log.figures.weights_s, log.figures.compile_s) == (1.13, None)
    assert log.eager
    assert own(log) == {"weights": pytest.approx(1.13 + 0.197649)}
    assert_agreement(log)


def test_a_cpu_start_that_compiles_does_so_before_its_kv_cache_and_agrees_with_what_vllm_says() -> None:
    log = ColdStartLog(0.0)
    for line in (DATA / "vllm-0.32-cpu-compile-start.stamped.log").read_text(encoding="utf-8").splitlines():
        log.feed(line[8:], float(line[:7]))
    assert log.finished
    assert [(name, round(end - begin, 2)) for name, begin, end in spans(log.stages(1e9))] == [
        ("spawn and imports", 11.53),
        ("model inspection", 16.74),
        ("engine spawn", 16.55),
        ("worker spawn", 21.81),
        ("weights", 3.87),
        ("model set-up", 1.87),
        ("compile", 104.65),
        ("first run", 54.08),
        ("profile and KV", 1.51),
        ("warm-up", 2.67),
        ("HTTP", 6.39),
    ]
    assert own(log) == {"weights": pytest.approx(3.898351), "first run": 54.07}
    assert log.figures.init_s == 162.9
    assert_agreement(log)


@pytest.mark.parametrize("name", ["vllm-0.24-h100-start.log", "vllm-0.32-cpu-start.log"])
def test_stages_join_without_gap_whatever_is_cut_off(name: str) -> None:
    lines = (DATA / name).read_text(encoding="utf-8").split("\n")
    for count in range(len(lines) + 1):
        log = ColdStartLog(100.0)
        for position, line in enumerate(lines[:count]):
            log.feed(line, 101.0 + position)
        stages = log.stages(100.0 + len(lines) + 2)
        assert stages[0].begin_s == 0
        assert all(one.end_s == other.begin_s for one, other in itertools.pairwise(stages))
        assert (stages[-1].end_s is None) == (not log.finished)
        names = [stage.name for stage in stages]
        assert len(set(names)) == len(names)


def test_the_running_stage_of_an_eager_start_is_never_one_it_lacks() -> None:
    log = ColdStartLog(0.0)
    log.feed(
        "INFO 11-23 10:00:00 [core.py:1] Initializing a V1 LLM engine (v0.33.0) with config: enforce_eager=True", 5.0
    )
    log.feed("INFO 11-23 10:00:02 [m.py:1] Model loading took 0.5 GiB memory and 1.25 seconds", 7.0)
    assert [stage.name for stage in log.stages(8.0)] == ["engine spawn", "weights", "profile and KV"]
    assert log.stages(8.0)[-1].end_s is None
    assert log.figures.weights_gib == 0.5


def test_progress_bars_prefixes_and_caches() -> None:
    log = ColdStartLog(0.0)
    log.feed("(EngineCore pid=7) INFO 11-23 10:00:02 [m.py:1] Model loading took 1.0 GiB and 1.0 seconds", 1.0)
    line = (
        "(EngineCore pid=7) INFO 11-23 10:00:03 [b.py:1] [backbone] Directly load the compiled graph(s) from the cache"
    )
    assert log.feed(line, 2.0)
    assert not log.feed("\rCapturing CUDA graphs: 0%|  | 0/51\rCapturing CUDA graphs: 100%", 3.0)
    assert log.feed(
        "\rCapturing: 100%\rINFO 11-23 10:00:04 [r.py:1] Graph capturing finished in 4 secs, took -0.01 GiB", 4.0
    )
    assert log.figures.graphs_gib == -0.01
    assert {stage.name: stage.detail for stage in log.stages(4.0)}["compile"] == "from its cache"


def test_several_workers_end_a_stage_with_the_last_one() -> None:
    log = ColdStartLog(0.0)
    assert log.feed("(Worker_TP0 pid=1) INFO 11-23 10:00:02 [m.py:1] Model loading took 1.0 GiB and 1.0 seconds", 4.0)
    assert not log.feed(
        "(Worker_TP1 pid=2) INFO 11-23 10:00:03 [m.py:1] Model loading took 1.0 GiB and 2.0 seconds", 5.0
    )
    assert spans(log.stages(6.0)) == [("weights", 0.0, 5.0)]


def test_graphs_that_are_captured_to_measure_memory_are_not_the_capture() -> None:
    log = ColdStartLog(0.0)
    log.feed("INFO 11-23 10:00:02 [m.py:1] Model loading took 1.0 GiB and 1.0 seconds", 1.0)
    log.feed("INFO 11-23 10:00:02 [u.py:1] Using NHD KV cache layout.", 1.5)
    log.feed("INFO 11-23 10:00:02 [m.py:1] [backbone] Starting torch.compile", 2.5)
    log.feed("INFO 11-23 10:00:02 [m.py:1] [backbone] torch.compile took 3.00 s in total", 5.5)
    log.feed("Capturing CUDA graphs (mixed): 100%|##| 2/2 [00:00<00:00]", 6.0)
    log.feed("INFO 11-23 10:00:02 [g.py:1] Available KV cache memory: 5 GiB", 7.0)
    log.feed("Capturing CUDA graphs (mixed):   0%|  | 0/51 [00:00<?, ?it/s]\rCapturing: 2%", 9.0)
    log.feed("Capturing CUDA graphs (mixed):  50%|  | 25/51 [00:00<?, ?it/s]", 11.0)
    log.feed("INFO 11-23 10:00:02 [g.py:1] Graph capturing finished in 4 secs, took 0.5 GiB", 13.0)
    log.feed(
        "INFO 11-23 10:00:02 [c.py:1] init engine (profile, create kv cache, warmup model) took 12.50 s "
        "(compilation: 3.20 s)",
        14.0,
    )
    assert spans(log.stages(14.0)) == [
        ("weights", 0.0, 1.0),
        ("model set-up", 1.0, 1.5),
        ("profile set-up", 1.5, 2.5),
        ("compile", 2.5, 5.5),
        ("profile and KV", 5.5, 7.0),
        ("kernel warm-up", 7.0, 9.0),
        ("graph capture", 9.0, 13.0),
        ("warm-up", 13.0, 14.0),
    ]
    assert own(log) == {"weights": 1.0, "compile": 3.2, "graph capture": 4.0}
    assert init_measured_s(log.stages(14.0)) == 12.5


def test_the_running_stage_is_named_after_the_start_before() -> None:
    line = "INFO 11-23 10:00:02 [m.py:1] Model loading took 1.0 GiB and 1.0 seconds"
    alone, told = ColdStartLog(0.0), ColdStartLog(0.0, 0.0, ["clearing", "weights", "model set-up", "compile"])
    for log in (alone, told):
        log.feed(line, 1.0)
    assert alone.stages(2.0)[-1].name == "compile"
    assert told.stages(2.0)[-1].name == "model set-up"


def test_the_process_is_spawned_later_than_people_began_to_wait() -> None:
    log = ColdStartLog(100.0, 103.0)
    assert log.stages(105.0)[0].begin_s == 3.0
    log.feed("INFO 11-23 10:00:02 [a.py:1] non-default args: {}", 110.0)
    assert spans(log.stages(111.0)) == [("spawn and imports", 3.0, 10.0)]


def test_the_earliest_first_token_counts_and_only_after_the_start() -> None:
    log = ColdStartLog(10.0)
    assert not log.first_token(11.0)
    log.feed("INFO:     Application startup complete.", 20.0)
    assert not log.first_token(9.0), "a token of the process before this one"
    assert log.first_token(22.5)
    assert log.first_token(21.5), "a request that ended later got its first token earlier"
    assert not log.first_token(30.0)
    assert spans(log.stages(40.0)) == [("HTTP", 0.0, 10.0), ("first token", 10.0, 11.5)]


CORE = "(EngineCore pid=687) ERROR 11-23 14:28:06 [core.py:708] "
WRAPPER = """Traceback (most recent call last):
  File "entry.py", line 1, in <module>
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"""


@pytest.mark.parametrize(
    ("text", "what", "todo", "said"),
    [
        (
            CORE + "ValueError: Free memory on device cuda:0 (3.9/79.2 GiB) on startup is less than desired GPU memory "
            "utilization (0.92, 72.9 GiB). Decrease GPU memory utilization",
            "The GPU has 3.9 of 79.2 GiB free",
            "gpu-memory-utilization",
            "ValueError: Free memory on device cuda:0",
        ),
        (
            CORE
            + "ValueError: To serve at least one request with the model's max seq len (200000), (8.0 GiB KV cache is "
            "needed, which is larger than the available KV cache memory (4.5 GiB). Based on the available memory, the "
            "estimated maximum model length is 32768. Try increasing",
            "KV cache is too small",
            "--max-model-len 32768.",
            "ValueError: To serve",
        ),
        (
            CORE + "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
            "no memory for the KV cache",
            "smaller model",
            "ValueError: No available",
        ),
        (
            "RuntimeError: Failed to infer device type, please set",
            "no device",
            "doctor",
            "RuntimeError: Failed to infer",
        ),
        (
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
            "  Value error, Model architectures ['FooForCausalLM'] are not supported for now. Supported: x",
            "architecture ['FooForCausalLM']",
            "newer vLLM",
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig Value error",
        ),
        (
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
            "  Value error, User-specified max_model_len (200000) is greater than the derived max_model_len "
            "(max_position_embeddings=8192.0 or model_max_length=None in model's config.json).",
            "made for a context of 8192 tokens, and 200000 were",
            "--max-model-len 8192.",
            "pydantic_core",
        ),
        (
            "huggingface_hub.errors.GatedRepoError: 401 Client Error.",
            "only to those who asked",
            "HF_TOKEN",
            "huggingface_hub.errors.GatedRepoError: 401 Client Error.",
        ),
        (
            "huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error.",
            "no model of this name",
            "spelling",
            "huggingface_hub.errors.RepositoryNotFoundError: 404",
        ),
        (
            "huggingface_hub.errors.LocalEntryNotFoundError: An error happened while trying to locate the file on the Hub",
            "hub cannot be reached",
            "smollm2",
            "huggingface_hub.errors.LocalEntryNotFoundError",
        ),
        (
            CORE + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB",
            "memory does not suffice",
            "",
            "torch.",
        ),
        ("OSError: [Errno 98] Address already in use", "port is taken", "--engine-port", "OSError"),
        ("KeyError: 'x'", "vLLM failed during spawn and imports.", "logs engine", "KeyError: 'x'"),
    ],
)
def test_a_failed_start_is_explained_by_its_first_exception(text: str, what: str, todo: str, said: str) -> None:
    log = ColdStartLog(0.0)
    log.feed("WARNING 11-23 14:00:00 [x.py:1] ImportError: something optional is not there", 0.5)
    log.feed('(EngineCore pid=687) Traceback (most recent call last):\n  File "core.py", line 1, in run', 1.0)
    log.feed(text, 1.0)
    log.feed(WRAPPER, 2.0)
    failure = log.failure()
    assert what in failure.what
    assert todo in failure.todo
    assert failure.said.startswith(said)
    assert "root cause" not in failure.text


def test_an_exception_whose_message_stands_on_the_next_line() -> None:
    log = ColdStartLog(0.0)
    log.feed(CORE + "ValueError:", 1.0)
    log.feed(CORE + "To serve at least one request, the estimated maximum model length is 4096.", 1.0)
    assert log.failure().todo == "Start with --max-model-len 4096."


def test_arguments_that_vllm_refuses() -> None:
    log = ColdStartLog(0.0)
    log.feed("usage: api_server.py [-h] [--headless]", 1.0)
    log.feed("entry.py: error: unrecognized arguments: --no-such-flag", 1.0)
    assert log.failure().what == "This vLLM does not know the argument --no-such-flag."
    other = ColdStartLog(0.0)
    other.feed("entry.py: error: argument --dtype: invalid choice: 'float7'", 1.0)
    assert "argument --dtype: invalid choice" in other.failure().what


def test_a_process_that_leaves_without_a_word() -> None:
    log = ColdStartLog(0.0)
    log.feed("INFO 11-23 14:00:00 [m.py:1] Resolved architecture: LlamaForCausalLM", 3.0)
    failure = log.failure()
    assert failure.what == "vLLM left during engine spawn."
    assert failure.said == ""
    assert failure.text == f"{failure.what} {failure.todo}"


def test_trouble_during_the_start_does_not_explain_an_end_after_it() -> None:
    log = ColdStartLog(0.0)
    log.feed(CORE + "ValueError: something that was survived", 1.0)
    log.feed("INFO:     Application startup complete.", 2.0)
    assert log.failure().said == ""
    log.feed(CORE + "RuntimeError: an illegal memory access", 3.0)
    assert log.failure().what == "vLLM failed during serving."
    assert log.failure().said == "RuntimeError: an illegal memory access"


REAL_FAILURES = dict(
    part.split("\n", 1)
    for part in (DATA / "vllm-0.32-failed-starts.txt").read_text(encoding="utf-8").removeprefix("=== ").split("\n=== ")
)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nodata", "There are no weights in ./nodata. Name a folder that holds *.safetensors"),
        ("cut", "A file of the model's weights is damaged or cut short. Fetch the model again. It said: safetensors."),
        ("arch", "This vLLM does not know the model's architecture ['FooForCausalLM']. Take another model"),
        ("shape", "The weights do not fit the model's config.json. Fetch the model again"),
        ("offline", "The model is not on this machine and the hub cannot be reached. Take `smollm2`"),
        (
            "long",
            "The model was made for a context of 8192 tokens, and 200000 were asked for. Start with --max-model-len",
        ),
        ("argument", "This vLLM does not know the argument --no-such-flag. Leave it out of --engine-arg."),
        ("dtype", "vLLM refuses its arguments: argument --dtype: invalid choice: 'float7'"),
        ("bigkv", "The machine has 8.59 of 11.09 GiB of memory free, less than vLLM wants."),
        ("quant", "The model is not quantised by awq. Leave --quantization out"),
    ],
)
def test_real_failed_starts_are_one_sentence_a_suggestion_and_the_first_exception(name: str, text: str) -> None:
    log = ColdStartLog(0.0)
    for line in REAL_FAILURES[name].splitlines():
        log.feed(line, 1.0)
    failure = log.failure()
    assert failure.text.startswith(text)
    assert failure.said
    assert "root cause" not in failure.text
    assert "\n" not in failure.text
    assert len(failure.text) < 500


def test_every_real_failure_is_tried() -> None:
    assert len(REAL_FAILURES) == 10
