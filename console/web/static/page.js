"use strict";

const STALE_MS = 3000; // without a picture: it says so
const SILENT_MS = 6500; // without even a beat (every 2 s): the line is dead, whatever the browser thinks
const AGAIN_MS = [500, 1000, 2000, 4000];

// xterm.js writes style elements and style attributes, which the policy of this site forbids. The same rules may come in
// through the object model: a sheet for each element, and declarations one by one.
const create = document.createElement.bind(document);
document.createElement = (name, options) => {
  if (name !== "style") return create(name, options);
  const sheet = new CSSStyleSheet();
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  const element = create("meta", options);
  Object.defineProperty(element, "textContent", { set: (rules) => sheet.replaceSync(rules) });
  element.remove = () => {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((one) => one !== sheet);
    Element.prototype.remove.call(element);
  };
  return element;
};
const setAttribute = Element.prototype.setAttribute;
Element.prototype.setAttribute = function (name, value) {
  if (name === "style") this.style.cssText = value;
  else setAttribute.call(this, name, value);
};

const at = (id) => document.getElementById(id);
const stage = at("stage"), screen = at("screen"), door = at("door"), state = at("state");
const clock = (when) => when.toLocaleTimeString([], { hour12: false });

let terminal = null, socket = null, tries = 0, retry = 0;
let picture = null, message = null, lost = null; // when the last of each was
let why = "";

function say(is, text) {
  if (state.textContent === text && state.dataset.is === is) return;
  state.dataset.is = is;
  state.textContent = text;
  stage.classList.toggle("lost", is === "lost"); // what is only stale may have been frozen on purpose, to be looked at
}

function open(me) {
  terminal = new Terminal({
    cols: me.cells,
    rows: me.rows,
    scrollback: 0,
    fontFamily: 'ui-monospace, "Cascadia Mono", "JetBrains Mono", "DejaVu Sans Mono", Menlo, Consolas, monospace',
    fontSize: 12,
    disableStdin: !me.types,
    cursorInactiveStyle: "none",
    cursorStyle: "bar",
    theme: { background: "#0c1118", foreground: "#c6d0db", cursor: "#0c1118" },
  });
  terminal.open(screen);
  terminal.onData((keys) => type(me, new TextEncoder().encode(keys)));
  terminal.onBinary((keys) => type(me, Uint8Array.from(keys, (sign) => sign.charCodeAt(0))));
  fit();
  if (me.types) terminal.focus();
}

function type(me, keys) {
  if (me.types && socket && socket.readyState === WebSocket.OPEN) socket.send(keys);
}

// The cells are fixed; the largest type with which all of them fit. A cell's height grows in whole pixels, so that it is
// tried out around what the proportion says.
function fit() {
  if (!terminal || !stage.clientWidth || !stage.clientHeight) return;
  const cells = () => screen.querySelector(".xterm-screen").getBoundingClientRect();
  if (!cells().width) return;
  const room = (size) => {
    terminal.options.fontSize = size;
    const box = cells();
    return Math.min(stage.clientWidth / box.width, stage.clientHeight / box.height);
  };
  let size = terminal.options.fontSize;
  size = Math.max(3, Math.floor(size * room(size) * 4) / 4);
  while (room(size) < 1 && size > 3) size -= 0.25;
  while (size < 100 && room(size + 0.25) >= 1) size += 0.25;
  room(size);
}

async function start() {
  clearTimeout(retry);
  let me;
  try {
    me = await (await fetch("/me", { cache: "no-store" })).json();
  } catch {
    return later();
  }
  if (!me) return knock();
  door.hidden = true;
  at("role").textContent = me.types ? "you may type" : "read-only";
  if (!terminal) open(me);
  else if (terminal.cols !== me.cells || terminal.rows !== me.rows) {
    terminal.resize(me.cells, me.rows);
    fit();
  }
  watch();
}

function watch() {
  const mine = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/watch`);
  socket = mine;
  mine.binaryType = "arraybuffer";
  message = Date.now();
  mine.onmessage = (event) => {
    if (mine !== socket) return;
    message = Date.now();
    lost = null;
    tries = 0;
    if (!event.data.byteLength) return;
    picture = new Date();
    terminal.write(new Uint8Array(event.data));
  };
  mine.onclose = (event) => {
    if (mine === socket) later(event.reason);
  };
}

function later(reason) {
  socket = null;
  if (!lost) why = reason || "connection lost";
  lost = lost || new Date();
  clearTimeout(retry);
  retry = setTimeout(start, AGAIN_MS[Math.min(tries++, AGAIN_MS.length - 1)] * (0.75 + Math.random() / 2));
  look();
}

function look() {
  if (!door.hidden) return say("wait", "not in yet");
  if (lost) return say("lost", `${why} at ${clock(lost)}, trying again`);
  if (socket && Date.now() - message > SILENT_MS) {
    const dead = socket;
    later();
    dead.close();
    return;
  }
  if (!picture) return say("wait", "connecting");
  if (Date.now() - picture > STALE_MS) return say("stale", `stale since ${clock(picture)}`);
  say("live", "live");
}

function knock() {
  door.hidden = false;
  lost = null;
  look();
  const code = location.hash.slice(1);
  if (code) {
    history.replaceState(null, "", location.pathname);
    at("code").value = code;
    enter();
  } else at("code").focus();
}

async function enter() {
  at("why").textContent = "";
  try {
    const answer = await fetch("/join", { method: "POST", body: at("code").value });
    if (answer.ok) return start();
    at("why").textContent = (await answer.text()) || "That did not work.";
  } catch {
    at("why").textContent = "The console cannot be reached.";
  }
  at("code").select();
}

door.addEventListener("submit", (event) => {
  event.preventDefault();
  enter();
});
at("full").addEventListener("click", () =>
  document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen());
new ResizeObserver(fit).observe(stage);
setInterval(look, 500);
start();

// For whoever wants to read it otherwise than by eye.
window.sparkServe = {
  text: () => {
    if (!terminal) return "";
    const lines = terminal.buffer.active;
    return Array.from({ length: terminal.rows }, (_, row) => lines.getLine(row).translateToString(true)).join("\n");
  },
  state: () => state.dataset.is,
  fontSize: () => terminal && terminal.options.fontSize,
  drop: () => socket && socket.close(),
};
