"use strict";

// The page of herald's chat demo. Whatever comes from others is put in
// with textContent only. What a name may be, the server alone says.

const $ = (id) => document.getElementById(id);
const params = new URLSearchParams(location.search);
const maxLines = 500;

let me = "";         // this tab's user
let socket = null;   // the WebSocket, while there is one
let myConn = "";     // this tab's connection
let myNode = "";     // the node that this tab is on
let attempts = 0;    // to connect, since the last success
let lostAt = 0;      // when the connection was lost; 0: it never was
let timer = 0;       // of the next attempt
let to = "";         // whom the next message is for; "" is everybody
let known = { people: [], nodes: [], others: [] };
let lastSaid = null; // the last message shown, if nothing came after it

// make returns an element with a class, and children or text in it.
function make(tag, cls, ...inside) {
  const e = document.createElement(tag);
  if (cls) e.className = cls;
  e.append(...inside.filter((x) => x !== null)); // strings become text nodes
  return e;
}

function bdi(text) { return make("bdi", "", text); }

function face(user) {
  let hash = 0;
  for (const ch of user) hash = (hash * 31 + ch.codePointAt(0)) % 360;
  const letter = user.match(/[\p{L}\p{N}\p{P}\p{S}]/u)?.[0] ?? "";
  const e = make("span", "face", letter.toUpperCase());
  e.setAttribute("aria-hidden", "true");
  e.style.setProperty("--hue", hash);
  return e;
}

function thisDevice() {
  const ua = navigator.userAgent;
  const find = (list) => (list.find(([re]) => re.test(ua)) || ["", ""])[1];
  const browser = find([[/Edg\//, "Edge"], [/OPR\//, "Opera"], [/Firefox|FxiOS/, "Firefox"], [/Chrom|CriOS/, "Chrome"], [/Safari/, "Safari"]]) || "Browser";
  const system = find([[/Android/, "Android"], [/iPhone|iPad/, "iOS"], [/Windows/, "Windows"], [/Mac OS/, "Mac"], [/Linux|CrOS/, "Linux"]]);
  return system ? `${browser} on ${system}` : browser;
}

// The connection.

function setState(state, text) {
  $("state").dataset.state = state;
  $("state-text").textContent = text;
  $("send").disabled = state !== "connected";
  $("text").placeholder = state === "connected" ? "Message" : "Message, to be sent when connected";
}

function connect() {
  clearTimeout(timer);
  timer = 0;
  const query = new URLSearchParams({ user: me, device: thisDevice(), platform: "web", presence: "1" });
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const ws = new WebSocket(`${scheme}//${location.host}/ws?${query}`);
  socket = ws;
  // A node that vanished without a word may leave a handshake hanging.
  const patience = setTimeout(() => ws.close(), 8000);
  ws.onmessage = (event) => {
    clearTimeout(patience);
    let f;
    try { f = JSON.parse(event.data); } catch { return; }
    receive(f);
  };
  ws.onclose = (event) => {
    clearTimeout(patience);
    if (socket === ws) lost(event);
  };
}

function lost(event) {
  socket = null;
  if (attempts === 0 && myNode) {
    lostAt = Date.now();
    note("lost", `The connection to node ${myNode} was lost${event.reason ? ` (${event.reason})` : ""}. Looking for another…`);
  }
  myConn = myNode = "";
  setState("reconnecting", "Reconnecting…");
  refreshNodes();
  // Half of the wait is random, or all tabs of a dead node would come at once.
  const wait = Math.min(5000, 250 * 2 ** attempts) * (0.5 + Math.random() / 2);
  attempts++;
  timer = setTimeout(connect, wait);
}

function retryNow() {
  if (timer && !document.hidden) connect();
}

// refreshNodes asks for the nodes without a socket, so that they can be
// started again when none is left.
async function refreshNodes() {
  try {
    const response = await fetch("api/nodes");
    if (!response.ok) return;
    known.nodes = (await response.json()).nodes;
    if (!socket && !known.nodes.some((n) => n.state === "running")) {
      setState("reconnecting", "No node is running");
    }
    showNodes();
  } catch { /* the front door is away, too: the next attempt tells */ }
}

function receive(f) {
  switch (f.type) {
  case "hello": return hello(f);
  case "room": case "direct": return said(f);
  case "presence": known = f; showPeople(); showNodes(); return;
  case "notice": return note("", ...(f.from ? [bdi(f.from), " ", f.text] : [f.text]));
  case "error": return note("error", f.text);
  }
}

function hello(f) {
  myNode = f.node;
  myConn = f.conn;
  attempts = 0;
  setState("connected", `Connected to node ${myNode}`);
  if (lostAt) {
    const seconds = ((Date.now() - lostAt) / 1000).toFixed(1);
    note("back", `Back on node ${myNode} after ${seconds} s. What was said meanwhile did not reach this tab.`);
    lostAt = 0;
  }
  showPeople();
  showNodes();
}

// The messages.

function append(line) {
  const log = $("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  $("empty").hidden = true;
  log.append(line);
  while (log.children.length > maxLines) log.firstChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function note(kind, ...inside) {
  lastSaid = null;
  append(make("li", `note ${kind}`, ...inside));
}

function said(f) {
  const direct = f.type === "direct";
  const again = lastSaid && ["type", "from", "to", "device", "node"].every((k) => lastSaid[k] === f[k]);
  const line = make("li", `said${direct ? " direct" : ""}${again ? " more" : ""}`);
  const head = make("div", "head", bdi(f.from));
  if (direct) {
    head.append(make("span", "tag", ...(f.from !== me ? ["to you alone"] : f.to === me ? ["to yourself"] : ["to ", bdi(f.to), " alone"])));
  }
  const at = new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  head.append(make("small", "", [f.device, f.node && `node ${f.node}`, at].filter(Boolean).join(" · ")));
  line.append(face(f.from), make("div", "", head, make("div", "body", f.text)));
  lastSaid = f;
  append(line);
}

function aim(user) {
  to = user;
  const button = $("target");
  button.classList.toggle("private", to !== "");
  button.disabled = to === "";
  button.replaceChildren(...(to ? ["To ", bdi(to), " ✕"] : ["To everybody"]));
  button.title = to ? "Back to everybody" : "";
  showPeople();
}

function send(event) {
  event.preventDefault();
  const text = $("text").value;
  if (!text.trim() || !myNode || socket.readyState !== WebSocket.OPEN) return;
  socket.send(JSON.stringify(to ? { type: "direct", to, text } : { type: "room", text }));
  $("text").value = "";
  $("log").scrollTop = $("log").scrollHeight;
}

// Who is here.

// keepFocus redraws a list and gives the focus back to the button that had it.
function keepFocus(list, items) {
  const key = list.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  list.replaceChildren(...items);
  if (key !== undefined) [...list.querySelectorAll("button")].find((b) => b.dataset.key === key)?.focus();
}

function showPeople() {
  $("people-count").textContent = known.people.length || "";
  keepFocus($("people"), known.people.map((p) => {
    const devices = make("span", "devices", ...p.sessions.map((s) => {
      const line = make("span", "", bdi(s.device || "Some device"), " · ", make("b", "", s.node));
      if (s.conn === myConn) line.append(" · this tab");
      return line;
    }));
    const button = make("button", "person", face(p.user), make("span", "", make("span", "who", bdi(p.user), p.user === me ? " (you)" : null), devices));
    button.type = "button";
    button.dataset.key = p.user;
    button.setAttribute("aria-pressed", String(to === p.user));
    button.onclick = () => {
      aim(to === p.user ? "" : p.user);
      openDrawer(false);
      $("text").focus();
    };
    return make("li", "", button);
  }));
}

function showNodes() {
  const counts = new Map(); // an object has names of its own, as "constructor"
  for (const p of known.people) for (const s of p.sessions) counts.set(s.node, (counts.get(s.node) || 0) + 1);
  const sockets = (name) => `${counts.get(name) || 0} ${counts.get(name) === 1 ? "socket" : "sockets"}`;
  const row = (name, state, about, ...more) => {
    const here = name === myNode && state === "running";
    const item = make("li", here ? "node here" : "node", make("span", "lamp"),
      make("span", "about", make("b", "", name), make("small", "", here ? `${about} · this tab` : about)), ...more);
    item.dataset.state = state;
    return item;
  };
  const items = known.nodes.map((n) => {
    const running = n.state === "running";
    const button = make("button", "small", running ? "Stop" : n.state === "stopped" ? "Start" : "…");
    button.type = "button";
    button.disabled = n.state === "starting";
    button.dataset.key = n.name;
    button.setAttribute("aria-label", `${running ? "Stop" : "Start"} node ${n.name}`);
    button.onclick = () => order(n.name, running ? "stop" : "start", button);
    const left = counts.has(n.name) ? `stopped · ${sockets(n.name)} not noticed yet` : "stopped";
    return row(n.name, n.state, running ? sockets(n.name) : n.state === "stopped" ? left : n.state, button);
  });
  const others = known.others.map((name) => row(name, "running", `${sockets(name)} · another process`));
  $("nodes-count").textContent = known.nodes.filter((n) => n.state === "running").length + others.length || "";
  keepFocus($("nodes"), [...items, ...others]);
}

async function order(name, what, button) {
  button.disabled = true;
  try {
    const response = await fetch(`api/nodes/${encodeURIComponent(name)}/${what}`, { method: "POST" });
    if (!response.ok) note("error", (await response.json()).error);
  } catch {
    note("error", `The front door did not answer: it is unknown whether node ${name} did ${what}.`);
  }
  await refreshNodes();
  if (what === "start") retryNow();
}

function openDrawer(open) {
  $("side").classList.toggle("open", open);
  $("drawer").setAttribute("aria-expanded", String(open));
  $("drawer").textContent = open ? "Chat" : "People";
}

// The beginning.

// enter goes in under a name, unless the server says that it is none.
async function enter(name) {
  const fault = await faultOf(name);
  $("name-fault").textContent = fault;
  if (fault) {
    $("welcome").hidden = false;
    $("name").focus();
    return;
  }
  me = name;
  sessionStorage.setItem("name", me);
  history.replaceState(null, "", `?${new URLSearchParams({ user: me })}`);
  document.title = `${me} · herald chat`;
  $("me").textContent = me;
  $("twin").href = `?${new URLSearchParams({ user: me })}`;
  $("welcome").hidden = true;
  $("app").hidden = false;
  $("text").focus();
  connect();
}

// faultOf asks the server what is wrong with a name. Nothing is, if nobody
// answers: connecting goes on until somebody does.
async function faultOf(name) {
  try {
    const response = await fetch(`api/online?${new URLSearchParams({ user: name })}`, { signal: AbortSignal.timeout(8000) });
    return response.status === 400 ? (await response.json()).error : "";
  } catch {
    return "";
  }
}

$("enter").onsubmit = (event) => {
  event.preventDefault();
  enter($("name").value.trim());
};
$("compose").onsubmit = send;
$("target").onclick = () => { aim(""); $("text").focus(); };
$("drawer").onclick = () => openDrawer(!$("side").classList.contains("open"));
document.onkeydown = (event) => { if (event.key === "Escape") { openDrawer(false); if (to) aim(""); } };
window.addEventListener("online", retryNow);
document.addEventListener("visibilitychange", retryNow);

const given = params.get("user") || sessionStorage.getItem("name");
if (given) {
  enter(given);
} else {
  $("welcome").hidden = false;
  $("name").focus();
}
