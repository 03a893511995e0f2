"""The Snapshot: one frozen, versioned structure for live view, recording, replay, report and tests.

Every figure is a `Value` or `Quantiles`, carrying its age, sample count, window and source. Absent is absent
(`v is None`, with `why`), never 0. Units stand in the field names; shares are 0..1.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from loadgen.capacity import Progress
from loadgen.profile import Profile
from loadgen.slo import CHAT, Slo
from server.compare.progress import CompareProgress
from server.config import EngineKnobs
from server.gateway.policy import Policy
from server.gateway.records import FlyingRequest, QueuedRequest

SCHEMA_VERSION = 1

Source = Literal["engine", "gateway", "load", "nvml", "gpm", "host", "config", "trace", "stack"]
"""Where a figure comes from: engine = its /metrics, trace = exact per-request engine times (in-band or OTLP)."""


class Value(msgspec.Struct, frozen=True, omit_defaults=True, eq=False):
    """One reading."""

    v: float | None = None
    src: Source = "stack"
    age_s: float = 0.0
    """Seconds since it was read, when the snapshot was made."""
    n: int | None = None
    """Samples behind it, where it is a statistic."""
    window_s: float | None = None
    """Seconds it was taken over; None for an instantaneous reading."""
    why: str = ""
    """Why it is absent, or what it is worth when it is a guess."""


class Quantiles(msgspec.Struct, frozen=True, omit_defaults=True, eq=False):
    """A distribution over a window, in the unit of the field's name. p95 needs n >= 100 and p99 n >= 500, else None."""

    n: int = 0
    window_s: float = 30.0
    src: Source = "load"
    age_s: float = 0.0
    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None
    exact: bool = True
    """False: from histogram buckets (quantiles interpolated) or only a mean."""
    why: str = ""


ABSENT = Value()
NO_QUANTILES = Quantiles()

Phase = Literal["no_engine", "preparing", "starting", "ready", "stopping", "down", "failed"]
"""no_engine: nothing installed; preparing: making the model's files; failed: gave up, see `error`."""


class StartStage(msgspec.Struct, frozen=True, omit_defaults=True, eq=False):
    """One stage of a cold start."""

    name: str
    begin_s: float
    """Seconds since the start began."""
    end_s: float | None = None
    """None while it runs."""
    detail: str = ""
    engine_s: float | None = None
    """The engine's own figure for this stage, seconds; None where it gives none."""


class Meanwhile(msgspec.Struct, frozen=True, omit_defaults=True, eq=False):
    """What people felt of a start: requests that were under way when it began, or came before it was over."""

    src: Source = "gateway"
    waiting: int = 0
    """Without a first token now."""
    oldest_s: float | None = None
    """How long the one that waits longest has been waiting; None when nobody waits or nobody tells."""
    finished: int = 0
    refused: int = 0
    cut: int = 0
    """Failed: most of them streams that the old engine left unfinished."""
    missed: int = 0
    """Not good: refused, cut, or late. Past its limit a request is a miss while it still waits."""


class ColdStart(msgspec.Struct, frozen=True, omit_defaults=True, eq=False):
    """The running start, or the latest one."""

    kind: str = "process-cold"
    elapsed_s: float = 0.0
    """Seconds from the command, or the stack's own start, until the engine was ready, or until now."""
    finished: bool = False
    stages: list[StartStage] = []
    previous: list[StartStage] = []
    """The stages of an earlier start to compare with: the latest of this kind, else the latest; empty if there was none."""
    previous_kind: str = ""
    clears: str = ""
    """What this kind makes cold, in one clause."""
    keeps: str = ""
    """What stays warm all the same."""
    note: str = ""
    """What came of the clearing, e.g. how much of the weights is out of memory."""
    left_s: float | None = None
    """Estimated seconds until the engine is ready, from `previous`; None without one or when it is over."""
    init_s: float | None = None
    """The engine's own figure for all between its weights and the end of its warm-up."""
    kinds: dict[str, dict[str, float]] = {}
    """The latest start of each kind with these arguments: stage -> seconds, in order."""
    meanwhile: Meanwhile = Meanwhile()


class Engine(msgspec.Struct, frozen=True, omit_defaults=True, eq=False):
    """What runs the model: facts first, then readings."""

    phase: Phase = "down"
    error: str = ""
    """One sentence on why it is down or failed, and what to do."""
    again_in_s: float | None = None
    """Seconds until it is started again without anybody asking; None where it is not."""
    model: str = ""
    """Display name, e.g. `SmolLM2-135M-Instruct` or `qwen3-8b`."""
    model_kind: Literal["hub", "embedded", "shape", "folder", "attached", ""] = ""
    """shape: random weights; the header says so."""
    revision: str = ""
    """Of a hub model, as `server.engine.models.Model` has it; empty: not pinned, or not from the hub."""
    name: str = "vLLM"
    version: str = ""
    device: str = ""
    """e.g. `NVIDIA H100 80GB HBM3` or `CPU`."""
    url: str = ""
    pid: int | None = None
    attached: bool = False
    """Somebody else started it: read-only unless driven."""
    argv: list[str] = []
    max_num_seqs: Value = ABSENT
    max_num_batched_tokens: Value = ABSENT
    max_model_len: Value = ABSENT
    kv_tokens: Value = ABSENT
    """KV cache's size in tokens."""
    healthy: bool | None = None
    """Answer of /health; None if not asked."""
    heartbeat_age_s: float | None = None
    """Seconds since the iteration counter moved while requests were running; None when nothing runs."""
    stage_times: Literal["in-band", "otlp", "windowed", ""] = ""
    """How per-request engine times are had; windowed = means only."""
    running: Value = ABSENT
    waiting: Value = ABSENT
    kv_usage: Value = ABSENT
    preemptions_per_min: Value = ABSENT
    prompt_tokens_per_s: Value = ABSENT
    generation_tokens_per_s: Value = ABSENT
    tokens_per_step: Value = ABSENT
    steps_per_s: Value = ABSENT
    prefix_hit_share: Value = ABSENT
    ttft_s: Quantiles = NO_QUANTILES
    """The server's own time to first token (from histogram buckets)."""
    itl_s: Quantiles = NO_QUANTILES
    queue_s: Quantiles = NO_QUANTILES
    prefill_s: Quantiles = NO_QUANTILES
    decode_s: Quantiles = NO_QUANTILES
    front_end_s: Value = ABSENT
    """e2e - queue - inference from the engine's own sums over the window, mean seconds."""
    flops_per_s: Value = ABSENT
    bytes_per_s: Value = ABSENT
    start: ColdStart = ColdStart()
    log_tail: list[str] = []
    """The last lines of its log, oldest first, if it is our own engine; routes and other noise left out."""
    knobs: EngineKnobs = EngineKnobs()
    """What of its own scheduling it was told."""


class Replica(msgspec.Struct, frozen=True, omit_defaults=True, eq=False):
    """One engine of several: a rank (vLLM's label `engine`) at one endpoint."""

    name: str
    """As short as it can be told from the others: `:8001`, `:8001/1`, `10.0.0.2:8000`."""
    url: str
    rank: str = ""
    answers: bool = True
    """Its /metrics is read; it counts in the sums."""
    healthy: bool | None = None
    why: str = ""
    """What is wrong with it, in one clause."""
    heartbeat_age_s: float | None = None
    max_num_seqs: Value = ABSENT
    running: Value = ABSENT
    waiting: Value = ABSENT
    kv_usage: Value = ABSENT
    kv_tokens: Value = ABSENT
    preemptions_per_min: Value = ABSENT
    prompt_tokens_per_s: Value = ABSENT
    generation_tokens_per_s: Value = ABSENT
    prefix_hit_share: Value = ABSENT
    ttft_s: Quantiles = NO_QUANTILES
    sent: Value = ABSENT
    """Requests of our gateway that its endpoint has now; of all its ranks together."""
    out: bool = False
    """The gateway could not connect to it and sends it nothing until it answers again."""


class Replicas(msgspec.Struct, frozen=True, omit_defaults=True, eq=False):
    """All engines that serve as one."""

    members: list[Replica] = []
    answering: int = 0
    imbalance: Value = ABSENT
    """The largest mean load (running + waiting) over the mean of all that answer; 1: even. `n` readings."""
    busiest: str = ""
    """The name of the one with that load, where it is notable (`server.telemetry.replicas.notable`)."""
    balance: str = ""
    """How the gateway chooses among endpoints; empty: it has one to send to."""


class People(msgspec.Struct, frozen=True, omit_defaults=True, eq=False):
    """Who is out there, from our own load generator. All absent when it does not run."""

    mode: Literal["closed", "open", "none"] = "none"
    people: Value = ABSENT
    thinking: Value = ABSENT
    slow: Value = ABSENT
    in_flight: Value = ABSENT
    held: Value = ABSENT
    """Connections slow readers still hold."""
    rate_asked_per_s: Value = ABSENT
    sent_per_s: Value = ABSENT
    sent_total: int = 0
    outcomes: dict[str, int] = {}
    """Totals by outcome; with in_flight they sum to sent_total. `cut`: under way when their worker's process was killed."""
    loop_lag_ms: Value = ABSENT
    cpu_share: Value = ABSENT
    crowds: dict[str, int] = {}
    """People there are by behaviour (`loadgen.records.Behaviour`); they sum to `people`."""
    flash: Value = ABSENT
    """People of a flash crowd who are still there; not in `people`."""
    wanted: int = 0
    """People asked for, before weights split them; extras of one behaviour come on top."""
    weights: dict[str, float] = {}
    """How `wanted`, or the strangers of an open loop, are split by behaviour; empty: all patient."""
    extras: dict[str, int] = {}
    """People of one behaviour asked for besides `wanted`."""
    preset: str = ""
    """The preset they were picked as; empty once something was changed by hand."""
    arrivals: str = ""
    """Open loop in words: `gamma 4 /s, shape 0.25`; empty in closed loop."""
    profile: Profile | None = None
    """What they ask and how they behave."""
    workers: int = 0
    amplification: Value = ABSENT
    """Requests sent per request that somebody meant to make, over the window."""
    left_per_min: Value = ABSENT
    """Requests abandoned because somebody had enough."""
    wasted_tokens_per_s: Value = ABSENT
    """Tokens that had reached people who then left, counted in chunks: at least so many were made for nobody."""
    wasted_share: Value = ABSENT
    """Of all tokens that reached anybody in the window, 0..1."""
    clipped_share: Value = ABSENT
    """Requests whose drawn lengths did not fit the context, 0..1, since the workers started."""
    send_lag_ms: Value = ABSENT
    start_lag_ms: Value = ABSENT
    """Largest delay between meaning to begin a request and having begun it, in the latest interval."""
    void: str = ""
    """Why the figures are not to be trusted now: the load generator is the limit. Empty when they are."""


class Queue(msgspec.Struct, frozen=True, omit_defaults=True, eq=False):
    """The gateway and its admission queue."""

    url: str = ""
    policy: str = "fifo"
    depth: Value = ABSENT
    in_flight: Value = ABSENT
    max_in_flight: Value = ABSENT
    max_queue: Value = ABSENT
    oldest_s: Value = ABSENT
    wait_s: Quantiles = NO_QUANTILES
    arrivals_per_s: Value = ABSENT
    refused_share: Value = ABSENT
    """Rejected / arrived over the window."""
    failed_share: Value = ABSENT
    held: Value = ABSENT
    """Replies finished by the engine, not yet taken by their clients."""
    buffered_bytes: Value = ABSENT
    connections: Value = ABSENT
    arrived_total: int = 0
    outcomes: dict[str, int] = {}
    rules: Policy | None = None
    """The whole policy in force, as the gateway says; `policy` is its order in a word or two."""
    why: str = ""
    """What the next one waits for: engine, slots, adaptive, tokens (a long one at the head, though a slot is free); empty
    when nobody waits."""
    first: list[QueuedRequest] = []
    """The next to go, in order, at most 20; waits as they were `first_age_s` ago."""
    first_age_s: float | None = None
    flying: list[FlyingRequest] = []
    """Those in flight, who came first first, at most 12."""
    limit: Value = ABSENT
    """How many may be in flight now; less than `max_in_flight` under the adaptive limit."""
    token_budget: Value = ABSENT
    tokens_in_flight: Value = ABSENT
    estimated_wait_s: Value = ABSENT
    """What waits over the drain rate."""
    drain_per_s: Value = ABSENT
    """Requests the engine finishes per second, of its busy period and at most 30 s."""
    users_waiting: Value = ABSENT


class Feel(msgspec.Struct, frozen=True, omit_defaults=True, eq=False):
    """What people feel, measured at the client; at the gateway for clients that are not ours; by the engine itself for
    requests that pass neither. `src` of each figure says which."""

    ttft_s: Quantiles = NO_QUANTILES
    tpot_s: Quantiles = NO_QUANTILES
    gap_s: Quantiles = NO_QUANTILES
    """Raw gaps between token events."""
    e2e_s: Quantiles = NO_QUANTILES
    tokens_per_s: Value = ABSENT
    attainment: Value = ABSENT
    """good / due over the window, 0..1."""
    goodput_per_s: Value = ABSENT
    fluidity: Value = ABSENT
    """Mean share of token deadlines met, 0..1 (`loadgen.slo.fluidity`), slow readers left out."""
    misses: dict[str, int] = {}
    """Why requests of the window were not good: ttft, tpot, refused, error, left."""
    slo: Slo = CHAT
    """What good means."""
    server_ttft_s: Value = ABSENT
    """The engine's own mean TTFT over the same window, for the gap to ours."""
    ttft_gap_s: Value = ABSENT
    """Client's mean TTFT less the engine's: connect, accept, queue and front end."""


class StageTime(msgspec.Struct, frozen=True, omit_defaults=True, eq=False):
    """One stage's share of a mean request."""

    name: str
    mean_s: float | None = None
    n: int = 0
    exact: bool = True
    """False: a windowed mean, not joined request by request."""


class Breakdown(msgspec.Struct, frozen=True, omit_defaults=True, eq=False):
    """Where a request's time goes: stages in order, the last one `unattributed`, over requests that finished ok."""

    e2e_s: float | None = None
    n: int = 0
    window_s: float = 30.0
    stages: list[StageTime] = []
    why: str = ""


class Little(msgspec.Struct, frozen=True, omit_defaults=True, eq=False):
    """Little's law: rate x mean time = people inside, against an independent count."""

    expected: float | None = None
    counted: float | None = None
    window_s: float = 60.0
    n: int = 0
    steady: bool = True
    """False: the number inside changed by over a tenth within the window, and the law holds for a steady state only."""

    @property
    def error(self) -> float | None:
        """(expected - counted) / counted, or None."""
        if self.expected is None or not self.counted:
            return None
        return (self.expected - self.counted) / self.counted


class GpuProcess(msgspec.Struct, frozen=True, omit_defaults=True, eq=False):
    """A process that holds memory on a device."""

    pid: int
    name: str = ""
    """Empty: this process is not visible from here."""
    mem_bytes: float | None = None
    engines: bool = False
    """It belongs to the engine we watch."""


class Gpu(msgspec.Struct, frozen=True, omit_defaults=True, eq=False):
    """One device. `why` of an absent value says what the device or the driver lacks."""

    index: int
    name: str = ""
    busy: Value = ABSENT
    """NVML utilization: share of time in which at least one kernel ran. Not SM activity."""
    sm_active: Value = ABSENT
    sm_occupancy: Value = ABSENT
    tensor: Value = ABSENT
    dram: Value = ABSENT
    power_w: Value = ABSENT
    power_limit_w: Value = ABSENT
    sm_clock_mhz: Value = ABSENT
    temp_c: Value = ABSENT
    mem_used_bytes: Value = ABSENT
    mem_total_bytes: Value = ABSENT
    unified: bool = False
    """Memory is the host's (GB10): mem_* come from /proc/meminfo."""
    mfu: Value = ABSENT
    """The engine's estimated FLOPs against the device's peak, over 10 s. See `server.telemetry.peaks`."""
    mbu: Value = ABSENT
    """The engine's estimated bytes read and written against the device's peak, over 10 s."""
    gpm_note: str = ""
    """Why there is no GPM on this device; empty where there is."""
    mem_clock_mhz: Value = ABSENT
    sm_clock_max_mhz: Value = ABSENT
    slowed_by: list[str] | None = None
    """What holds the clocks down now (`power cap`, `heat`, ..); empty: nothing does, None: the device does not say."""
    pcie_to_bytes_per_s: Value = ABSENT
    """Over PCIe to the device."""
    pcie_from_bytes_per_s: Value = ABSENT
    nvlink_in_bytes_per_s: Value = ABSENT
    """Over all NVLinks to the device."""
    nvlink_out_bytes_per_s: Value = ABSENT
    processes: list[GpuProcess] = []
    """Who holds memory on the device, largest first, as far as the driver says."""
    others_bytes: Value = ABSENT
    """Memory that processes other than the engine's hold."""
    engines: bool | None = None
    """The engine's processes are on this device; None: nobody knows."""
    energy_per_token_j: Value = ABSENT
    """Joules of this device a generated token, over 10 s. Of all devices together where the engine uses several."""
    mig: bool | None = None
    """The device is cut into MIG instances, and its figures are the whole card's; None: the device does not say."""


class Host(msgspec.Struct, frozen=True, omit_defaults=True, eq=False):
    """The machine and our processes on it. CPU in cores (1.0 = one core busy)."""

    cores: int = 0
    cpu_share: Value = ABSENT
    mem_available_bytes: Value = ABSENT
    mem_total_bytes: Value = ABSENT
    engine_cpu_cores: Value = ABSENT
    gateway_cpu_cores: Value = ABSENT
    load_cpu_cores: Value = ABSENT
    stack_cpu_cores: Value = ABSENT


VerdictWord = Literal["IDLE", "GOOD", "BENDING", "BROKEN", "STALLED", "STARTING", "DOWN", "UNKNOWN"]


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True, eq=False):
    """One word, and the reason in one clause. UNKNOWN: too few requests to judge."""

    word: VerdictWord = "UNKNOWN"
    reason: str = ""
    since_s: float = 0.0
    attainment: Value = ABSENT


LimitName = Literal[
    "stalled",
    "no load",
    "people's think time",
    "queue policy",
    "sequence cap",
    "token budget",
    "KV pressure",
    "memory bandwidth",
    "compute",
    "front end",
    "slow clients",
    "uneven replicas",
    "",
]


class LimitRule(msgspec.Struct, frozen=True, omit_defaults=True, eq=False):
    """One thing that may hold the setup back, and what was found."""

    name: LimitName
    holds: bool | None = None
    """None: it could not be evaluated, and `evidence` says what is missing."""
    evidence: str = ""


class Limit(msgspec.Struct, frozen=True, omit_defaults=True, eq=False):
    """What holds the setup back now. See `server.telemetry.limit`."""

    name: LimitName = ""
    """Empty: not evaluated, or nothing stands out; `phrase` says which."""
    phrase: str = "not evaluated"
    """Name, evidence and next step in one line; Snapshot.limit."""
    because: str = ""
    """The evidence for `name` in one clause, or what is missing."""
    next_step: str = ""
    """What a person can try."""
    rules: list[LimitRule] = []
    """All that was asked, in the order in which the first that holds is named."""
    window_s: float = 0.0
    """Seconds of snapshots behind it."""
    since_s: float = 0.0
    """How long this has been the answer."""


class Event(msgspec.Struct, frozen=True, omit_defaults=True, eq=False):
    """Something a person or the system did; marks every chart."""

    at: float
    """Monotonic seconds."""
    wall: float
    kind: str
    """burst, slow, people, restart, policy, started, died, marker, .."""
    text: str
    mark: str
    """One letter for the charts."""
    who: str = ""
    """Who told the stack to: `ada@pts/3`, `ada (verb)`; empty for what nobody did just then."""


class Viewer(msgspec.Struct, frozen=True, omit_defaults=True, eq=False):
    """Who reads the stream of snapshots now."""

    user: str
    """By the kernel's word (SO_PEERCRED)."""
    where: str = ""
    """A console's terminal, else the program; by its own word."""
    role: Literal["operator", "watcher"] = "operator"
    """watcher: through the socket that can only be read."""
    since: float = 0.0
    """Unix seconds."""


class Notice(msgspec.Struct, frozen=True, omit_defaults=True, eq=False):
    """A coming, a going or a command, for the list of who does what."""

    wall: float
    who: str
    text: str
    acts: bool = False
    """It was a command."""


class Audience(msgspec.Struct, frozen=True, omit_defaults=True, eq=False):
    """Who looks on and who acts."""

    viewers: list[Viewer] = []
    """Longest first."""
    group: str = ""
    """Whose members may watch; empty: only the operator's own consoles."""
    socket: str = ""
    """Where they do."""
    latest: list[Notice] = []
    """Newest last, at most 12."""


class ActiveFault(msgspec.Struct, frozen=True, omit_defaults=True, eq=False):
    """A fault that was provoked and lasts."""

    name: str
    """One of `server.faults.catalogue`."""
    text: str
    """What it is, in one clause."""
    mark: str
    since_s: float
    left_s: float | None = None
    """Until it is undone by itself."""
    settings: dict[str, int | float | str] = {}


class SourceState(msgspec.Struct, frozen=True, omit_defaults=True, eq=False):
    """How well a source answers."""

    ok: bool
    age_s: float | None = None
    """Seconds since its last good reading."""
    detail: str = ""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Everything the cockpit shows at one moment."""

    schema_version: int = SCHEMA_VERSION
    seq: int
    at: float
    """Monotonic seconds of the stack's host."""
    wall: float
    """Unix seconds, a label only."""
    uptime_s: float = 0.0
    read_only: str = ""
    """Why acting is disabled (somebody else's engine, a replay); empty when it is allowed."""
    recording_s: float | None = None
    """Seconds recorded so far; None when not recording."""
    verdict: Verdict = Verdict()
    limit: str = "not evaluated"
    """What holds the setup back, in one line: `limit_detail.phrase`."""
    people: People = People()
    queue: Queue = Queue()
    engine: Engine = Engine()
    feel: Feel = Feel()
    breakdown: Breakdown = Breakdown()
    little: Little = Little()
    gpus: list[Gpu] = []
    gpu_note: str = ""
    """Why there is no GPU reading, e.g. `no NVIDIA driver on this machine`."""
    host: Host = Host()
    capacity: Progress | None = None
    """The capacity search that runs, or the latest one of this stack."""
    comparison: CompareProgress | None = None
    """The comparison of policies that runs, or the latest one of this stack."""
    events: list[Event] = []
    """The latest, oldest first, at most 20."""
    faults: list[ActiveFault] = []
    """Those that are provoked and last, oldest first."""
    sources: dict[str, SourceState] = {}
    limit_detail: Limit = Limit()
    audience: Audience = Audience()
    replicas: Replicas | None = None
    """Where the engine is more than one: several endpoints, or data-parallel ranks. `engine` is their sum then."""

    @property
    def device(self) -> Gpu | None:
        """The GPU the engine is on; the first where nobody knows which, None without one."""
        return next((gpu for gpu in self.gpus if gpu.engines), self.gpus[0] if self.gpus else None)


class JoinedRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, eq=False):
    """One finished request with everything known of it, seconds relative to `at`."""

    request_id: str
    at: float
    """Monotonic seconds of its scheduled start (or of its accept, for clients that are not ours)."""
    who: str = ""
    behaviour: str = ""
    outcome: str = ""
    reason: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None
    stages: dict[str, float] = {}
    """Stage name -> seconds, in order; see `server.telemetry.join.STAGES`."""
    exact: bool = False
    trace_id: str = ""
    user: str = ""
    """Whom a fair order counted it to."""
    priority: int = 0
    tokens: int | None = None
    """Prompt and reply at most, as the admission reckoned."""
    behind: int = 0
    """How many others waited when it began to."""
    waited_for: str = ""
    """What the next one waited for then: engine, slots, adaptive, tokens; empty when it went at once."""
    order: str = ""
    """Of the policy in force when its wait ended."""
    dispatch_s: float | None = None
    """Admitted -> last byte sent upstream; the first part of `front end`."""
    key: str = ""
    """Tells it from another request of the same id; empty where there is none."""
    sealed_at: float = 0.0
    """Monotonic seconds at which all that is said here became known; requests are asked for by what came `since`."""
    attempt: int = 1
    prior_s: float = 0.0
    """Seconds from when its person first meant to ask to this attempt's `at`: they count for TTFT. 0 for a first attempt."""
    judged: str = ""
    """good, miss or excluded (`loadgen.slo.judge`); empty where nobody judged."""
    missed: str = ""
    """Which part of the promise was broken (`loadgen.slo.Miss`); empty when none was."""
    replica: str = ""
    """HOST:PORT of the engine it was sent to, where there are several."""


snapshot_encoder = msgspec.json.Encoder()
snapshot_decoder = msgspec.json.Decoder(Snapshot)
