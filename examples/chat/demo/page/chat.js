// The page of herald's chat demo. What a name may be, the server alone says.

import { Herald } from "./herald.js";
import { $, bdi } from "./dom.js";
import { gap, note, received, said } from "./log.js";
import * as outbox from "./outbox.js";
import { aim, known, learn, onOrder, openDrawer, refresh, show } from "./side.js";
import { tab } from "./tab.js";

let socket = null; // the Herald, once there is a name
let keeps = false; // the node keeps messages
let live = false; // nothing that was missed is still to come
let lostAt = 0; // when the connection was lost; 0: it never was, or it is back
let missed = 0; // messages that have come since
let missing = false; // and more may be missing

// The connection.

function setState(state, text) {
  $("state").dataset.state = state;
  $("state").dataset.node = tab.node;
  $("state-text").textContent = text;
}

// showState says how the connection is, and if it is not there, why.
function showState() {
  if (tab.cut) setState("reconnecting", "Network cut");
  else if (tab.node) setState("connected", `Connected to node ${tab.node}`);
  else if (known.redis === "stopped") setState("reconnecting", "Redis is stopped");
  else if (known.nodes.length && !known.nodes.some((n) => n.state === "running")) setState("reconnecting", "No node is running");
  else if (lostAt) setState("reconnecting", "Reconnecting…");
  else setState("connecting", "Connecting…");
}

function connect() {
  const query = new URLSearchParams({ user: tab.me, device: thisDevice(), platform: "web", presence: "1", tab: tab.id });
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new Herald(`${scheme}//${location.host}/ws?${query}`, { maxDelay: 4000 });
  socket.onwelcome = () => { keeps = true; };
  socket.onlive = () => { live = true; arrived(); };
  socket.ongap = () => { missing = true; gap(); };
  socket.onmessage = (event) => {
    let f;
    try { f = JSON.parse(event.data); } catch { return; }
    receive(f);
  };
  socket.ondisconnect = (event) => lost(event);
}

function lost(event) {
  if (tab.node) {
    lostAt ||= Date.now();
    missed = 0;
    missing = false;
    note("lost", `The connection to node ${tab.node} was lost${event.reason ? ` (${event.reason})` : ""}. Looking for another…`);
  }
  tab.node = tab.conn = "";
  keeps = live = false;
  outbox.close();
  showState();
  refresh().then(showState);
}

// arrived is called when the tab knows where it is, and when all that it missed has come.
function arrived() {
  if (!tab.node || !live) return;
  if (lostAt) {
    const seconds = ((Date.now() - lostAt) / 1000).toFixed(1);
    note("back", `Back on node ${tab.node} after ${seconds} s. ${whatCame()}`);
    lostAt = 0;
  }
  // It is sent only now: it may be among what has come.
  outbox.open((text) => {
    try { socket.send(text); } catch { /* the connection has just ended: it is sent again on the next one */ }
  });
}

function whatCame() {
  const came = missed === 1 ? "1 message came while you were away" : `${missed} messages came while you were away`;
  if (missing) return missed ? `${came}, and others may be missing.` : "What was said meanwhile may be missing.";
  return missed ? `${came}. Nothing is missing.` : "Nothing was said meanwhile.";
}

// receive takes a frame of the node's.
export function receive(f) {
  switch (f.type) {
  case "hello": return hello(f);
  case "room": case "direct": return message(f);
  case "receipt": return received(f);
  case "presence": return learn(f);
  case "redis": note("", `${f.text}.`); learn({ redis: f.state }); return showState();
  case "notice": return note("", ...(f.from ? [bdi(f.from), " ", f.text] : [f.text]));
  case "gap": return keeps ? undefined : note("lost", f.text);
  case "error": return failed(f);
  }
}

function hello(f) {
  tab.node = f.node;
  tab.conn = f.conn;
  showState();
  show();
  arrived();
}

function message(f) {
  const own = f.from === tab.me && outbox.cameBack(f.id);
  if (said(f) && !own) missed++;
}

function failed(f) {
  if (!outbox.refused(f) || !f.again) note("error", f.text);
}

function send(event) {
  event.preventDefault();
  const text = $("text").value;
  if (!text.trim()) return;
  if (!outbox.put(tab.to ? "direct" : "room", tab.to, text)) return note("error", "Too many messages wait already.");
  $("text").value = "";
  $("view").scrollTop = $("view").scrollHeight;
}

// The beginning.

function thisDevice() {
  const ua = navigator.userAgent;
  const find = (list) => (list.find(([re]) => re.test(ua)) || ["", ""])[1];
  const browser = find([[/Edg\//, "Edge"], [/OPR\//, "Opera"], [/Firefox|FxiOS/, "Firefox"], [/Chrom|CriOS/, "Chrome"], [/Safari/, "Safari"]]) || "Browser";
  const system = find([[/Android/, "Android"], [/iPhone|iPad/, "iOS"], [/Windows/, "Windows"], [/Mac OS/, "Mac"], [/Linux|CrOS/, "Linux"]]);
  return system ? `${browser} on ${system}` : browser;
}

// enter goes in under a name, unless the server says that it is none.
async function enter(name) {
  const fault = await faultOf(name);
  $("name-fault").textContent = fault;
  if (fault) {
    $("welcome").hidden = false;
    $("name").focus();
    return;
  }
  tab.me = name;
  sessionStorage.setItem("name", name);
  history.replaceState(null, "", `?${new URLSearchParams({ user: name })}`);
  document.title = `${name} · herald chat`;
  $("me").textContent = name;
  $("twin").href = `?${new URLSearchParams({ user: name })}`;
  $("welcome").hidden = true;
  $("app").hidden = false;
  $("text").focus();
  outbox.restore();
  connect();
  refresh().then(showState);
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
document.onkeydown = (event) => { if (event.key === "Escape") { openDrawer(false); if (tab.to) aim(""); } };
onOrder((path) => {
  if (path.endsWith("/cut")) lostAt ||= Date.now();
  outbox.show();
  showState();
  socket.check(); // what was away may be back
});

const given = new URLSearchParams(location.search).get("user") || sessionStorage.getItem("name");
if (given) {
  enter(given);
} else {
  $("welcome").hidden = false;
  $("name").focus();
}
