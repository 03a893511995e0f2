"""A package that claims to be vLLM, whose server logs a start, answers, and ends as it is told: for what happens around an
engine."""

from __future__ import annotations

from pathlib import Path

SERVER = """
import json, os, pathlib, signal, subprocess, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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

def told(what):
    path = note.parent / what
    return path.read_text().strip() if path.exists() else None

def leave(how):
    if how.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, how))
    os._exit(int(how or 0))

SLEEP = "import signal, sys, time\\nif 'deaf' in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)\\ntime.sleep(600)"
info = "(APIServer pid=1) INFO 11-25 04:00:00 [x.py:1] "
if "--no-such-flag" in sys.argv:
    print("api_server.py: error: unrecognized arguments: --no-such-flag", file=sys.stderr)
    sys.exit(2)
say(info + "non-default args: {}")
say(info + "Resolved architecture: LlamaForCausalLM")
if told("fail") is not None:
    say("Traceback (most recent call last):")
    say("RuntimeError: Cannot find any model weights with `./nowhere`")
    sys.exit(1)
core = None
if (kinds := told("core")) is not None:
    deaf = ["deaf"] if "deaf" in kinds else []
    core = subprocess.Popen(["VLLM::EngineCore", "-c", SLEEP, *deaf], executable=sys.executable)
    if "escapee" in kinds:
        subprocess.Popen(["VLLM::Worker", "-c", SLEEP], executable=sys.executable, start_new_session=True)
say(info + "Initializing a V1 LLM engine (v0.32.0) with config: x")
say(info + "Starting to load model x...")
say(info + "Loading weights took 0.01 seconds")
say(info + "Available KV cache memory: 1.0 GiB")
if (how := told("die-early")) is not None:
    say("(EngineCore pid=2) ERROR 11-25 04:00:09 [core.py:1] RuntimeError: the cards were never there")
    leave(how)
say(info + "init engine (profile, create kv cache, warmup model) took 0.01 s")

running, steps, lock = 0, 0, threading.Lock()

class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if (how := told("die")) is not None:
            say("(EngineCore pid=2) ERROR 11-25 04:00:09 [core.py:1] RuntimeError: the cards are on fire")
            leave(how)
        self.answer(METRICS.format(running=running, steps=steps) if self.path == "/metrics" else "")

    def answer(self, text, kind="text/plain; version=0.0.4"):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_POST(self):
        global running, steps
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        tokens = int(body.get("max_tokens") or body.get("max_completion_tokens") or 16)
        with lock:
            running += 1
        try:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream; charset=utf-8")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for number in range(tokens):
                while told("stuck") is not None:
                    time.sleep(0.05)
                time.sleep(float(told("gap") or 0))
                last = "length" if number + 1 == tokens else None
                with lock:
                    steps += 1
                self.event({"choices": [{"index": 0, "delta": {"content": " word"}, "finish_reason": last}]})
            self.event({"choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": tokens, "total_tokens": 8 + tokens}})
            self.chunk("data: [DONE]\\n\\n")
            self.wfile.write(b"0\\r\\n\\r\\n")
        except OSError:
            self.close_connection = True
        finally:
            with lock:
                running -= 1

    def event(self, event):
        self.chunk("data: " + json.dumps({"id": "x", "object": "chat.completion.chunk", "model": "tiny", **event}) + "\\n\\n")

    def chunk(self, text):
        self.wfile.write(f"{len(text):x}\\r\\n{text}\\r\\n".encode())

    def log_message(self, *_):
        pass

METRICS = '''vllm:num_requests_running{{engine="0",model_name="tiny"}} {running}
vllm:num_requests_waiting{{engine="0",model_name="tiny"}} 0
vllm:iteration_tokens_total_bucket{{engine="0",le="+Inf",model_name="tiny"}} {steps}
vllm:iteration_tokens_total_count{{engine="0",model_name="tiny"}} {steps}
vllm:iteration_tokens_total_sum{{engine="0",model_name="tiny"}} {steps}
'''

class Listening(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

server = Listening(("127.0.0.1", int(options["--port"])), Server)
say("INFO:     Application startup complete.")
if core is not None and "linger" not in kinds:
    threading.Thread(target=lambda: (core.wait(), say("(APIServer pid=1) ERROR EngineDeadError"), os._exit(0))).start()
server.serve_forever()
"""


def make_package(folder: Path) -> None:
    """A folder for PYTHONPATH. Its server appends a JSON line a start to the file $FAKE_VLLM_NOTE.

    Files beside that one tell it what to do; `HOW` is an exit code (empty: 0) or a signal's name:

    - `fail`: a start fails with exit code 1; `die-early` HOW: it ends before it is ready
    - `die` HOW: it ends with the next GET
    - `core` WORDS: it has an engine core whose end it follows with exit code 0. `deaf`: the core ignores SIGTERM; `escapee`:
      there is a worker too, in a session of its own; `linger`: it stays when the core has ended
    - `gap` SECONDS: between two tokens of a reply; `stuck`: no token comes while the file is there
    - the argument `--no-such-flag` is refused as argparse does
    """
    (folder / "vllm" / "entrypoints" / "openai").mkdir(parents=True)
    for part in ("vllm", "vllm/entrypoints", "vllm/entrypoints/openai"):
        (folder / part / "__init__.py").touch()
    (folder / "vllm" / "_version.py").write_text("__version__ = '0.32.0+cpu'\n")
    (folder / "vllm" / "entrypoints" / "openai" / "api_server.py").write_text(SERVER)
