"""When a dead engine's GPU memory counts as returned, and what is said while it does not."""

from __future__ import annotations

import pynvml

from server.engine.gpu_memory import DeviceMemory, in_words, read, unreturned
from tests.fakes.fake_nvml import FakeNvml, gb10, h100

GIB = float(2**30)
EMPTY = DeviceMemory(0.5 * GIB, {})


def name(pid: int) -> str:
    return {7: "VLLM::EngineCore", 9: "python"}.get(pid, "")


def test_nothing_held_is_nothing_to_say() -> None:
    assert unreturned([EMPTY], [EMPTY], {7}, name) == ""
    assert unreturned([], [], {7}, name) == ""


def test_an_engine_process_that_the_driver_still_lists_is_named() -> None:
    now = [DeviceMemory(75.5 * GIB, {7: 75.0 * GIB})]
    assert unreturned(now, [EMPTY], {7, 8}, name) == (
        "GPU 0: 75.5 GiB in use (0.5 before the engine), held by VLLM::EngineCore (7) 75.0 GiB"
    )


def test_where_the_driver_lists_nobody_the_memory_in_use_tells() -> None:
    assert unreturned([DeviceMemory(70 * GIB, {})], [EMPTY], {7}, name) == (
        "GPU 0: 70.0 GiB in use (0.5 before the engine)"
    )
    assert unreturned([DeviceMemory(1.4 * GIB, {})], [EMPTY], {7}, name) == "", "others may take a little"


def test_memory_that_others_held_before_is_not_ours() -> None:
    theirs = DeviceMemory(40 * GIB, {9: 39 * GIB})
    assert unreturned([theirs], [theirs], {7}, name) == ""
    assert unreturned([theirs], [], {7}, name) == "", "what was in use before is not known"
    assert unreturned([theirs], [EMPTY], {7}, name).endswith("held by python (9) 39.0 GiB")


def test_a_device_without_memory_of_its_own_goes_by_the_list() -> None:
    assert unreturned([DeviceMemory(None, {})], [DeviceMemory(None, {})], {7}, name) == ""
    assert unreturned([DeviceMemory(None, {7: None})], [], {7}, name) == "GPU 0: memory, held by VLLM::EngineCore (7)"


def test_reading_the_driver() -> None:
    card, unified = h100(), gb10()
    card.processes = [(7, 2**30), (8, None)]
    found = read(FakeNvml(card, unified))
    assert found == [DeviceMemory(75 * GIB, {7: GIB, 8: None}), DeviceMemory(None, {})]
    assert in_words(found) == "75.0 GiB in use"
    assert in_words(found[1:]) == ""


def test_no_driver_is_no_device() -> None:
    assert read(FakeNvml(init_error=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)) == []
