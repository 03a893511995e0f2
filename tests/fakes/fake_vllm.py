"""A package that claims to be vLLM, whose server logs a start and answers /health: for what happens around an engine."""

from __future__ import annotations

from pathlib import Path

SERVER = """
import json, os, pathlib, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

def say(text):
    print(text, flush=True)

options = dict(zip(sys.argv[1:], sys.argv[2:]))
note = pathlib.Path(os.environ["FAKE_VLLM_NOTE"])
names = ("VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
with note.open("a") as file:
    file.write(json.dumps({"argv": sys.argv[1:], **{name: os.environ.get(name) for name in names}}) + "\\n")
for name in names:
    if os.environ.get(name):
        os.makedirs(os.environ[name], exist_ok=True)
info = "(APIServer pid=1) INFO 11-25 04:00:00 [x.py:1] "
say(info + "non-default args: {}")
say(info + "Resolved architecture: LlamaForCausalLM")
if (note.parent / "fail").exists():
    say("Traceback (most recent call last):")
    say("RuntimeError: Cannot find any model weights with `./nowhere`")
    sys.exit(1)
say(info + "Initializing a V1 LLM engine (v0.32.0) with config: x")
say(info + "Starting to load model x...")
say(info + "Loading weights took 0.01 seconds")
say(info + "Available KV cache memory: 1.0 GiB")
say(info + "init engine (profile, create kv cache, warmup model) took 0.01 s")

class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        if (note.parent / "die").exists():
            say("(EngineCore pid=2) ERROR 11-25 04:00:09 [core.py:1] RuntimeError: the cards are on fire")
            os._exit(0)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass

server = HTTPServer(("127.0.0.1", int(options["--port"])), Health)
say("INFO:     Application startup complete.")
server.serve_forever()
"""


def make_package(folder: Path) -> None:
    """A folder for PYTHONPATH. Its server appends a JSON line a start to the file $FAKE_VLLM_NOTE.

    Beside that file, `fail` makes a start fail and `die` makes the server end with the next request.
    """
    (folder / "vllm" / "entrypoints" / "openai").mkdir(parents=True)
    for part in ("vllm", "vllm/entrypoints", "vllm/entrypoints/openai"):
        (folder / part / "__init__.py").touch()
    (folder / "vllm" / "_version.py").write_text("__version__ = '0.32.0+cpu'\n")
    (folder / "vllm" / "entrypoints" / "openai" / "api_server.py").write_text(SERVER)
