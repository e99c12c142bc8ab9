// Who is here, and what can be broken.

import { $, bdi, button, face, keepFocus, make } from "./dom.js";
import { note } from "./log.js";
import { tab } from "./tab.js";

// What is known of the others. Of Redis and of tabs only this process' door knows.
export const known = { people: [], nodes: [], others: [], redis: "", tabs: false };

let changed = () => {}; // what else is to be done when something was started or stopped

export function onOrder(f) { changed = f; }

// learn takes what is new, and shows it.
export function learn(news) {
  for (const k of Object.keys(known)) if (k in news) known[k] = news[k];
  show();
}

export function show() {
  showPeople();
  showNodes();
  showWorld();
}

function showPeople() {
  $("people-count").textContent = known.people.length || "";
  keepFocus($("people"), known.people.map((p) => {
    const devices = make("span", "devices", ...p.sessions.map((s) => {
      const line = make("span", "", bdi(s.device || "Some device"), " · ", make("b", "", s.node));
      if (s.conn === tab.conn) line.append(" · this tab");
      return line;
    }));
    const choose = () => {
      aim(tab.to === p.user ? "" : p.user);
      openDrawer(false);
      $("text").focus();
    };
    const b = button("person", p.user, choose, face(p.user), make("span", "", make("span", "who", bdi(p.user), p.user === tab.me ? " (you)" : null), devices));
    b.setAttribute("aria-pressed", String(tab.to === p.user));
    return make("li", "", b);
  }));
}

// aim chooses whom the next message is for. Somebody who has gone can still be written to.
export function aim(user) {
  tab.to = user;
  const target = $("target");
  target.classList.toggle("private", user !== "");
  target.disabled = user === "";
  target.replaceChildren(...(user ? ["To ", bdi(user), " ✕"] : ["To everybody"]));
  target.title = user ? "Back to everybody" : "";
  showPeople();
}

// row returns a row of what runs, or does not.
function row(name, state, here, about, ...buttons) {
  const lamp = make("span", "lamp");
  lamp.setAttribute("aria-hidden", "true");
  const item = make("li", here ? "node here" : "node", lamp, make("span", "about", make("b", "", name), make("small", "", about)), ...buttons);
  item.dataset.state = state;
  return item;
}

// control returns a button that has the front door do something.
function control(text, label, path, enabled = true) {
  const b = button("small", path, () => order(path, label, b), text);
  b.disabled = !enabled;
  b.setAttribute("aria-label", label);
  return b;
}

function showNodes() {
  const counts = new Map(); // an object has names of its own, as "constructor"
  for (const p of known.people) for (const s of p.sessions) counts.set(s.node, (counts.get(s.node) || 0) + 1);
  const sockets = (name) => `${counts.get(name) || 0} ${counts.get(name) === 1 ? "socket" : "sockets"}`;
  const items = known.nodes.map((n) => {
    const running = n.state === "running";
    const here = running && n.name === tab.node;
    const left = counts.has(n.name) ? `stopped · ${sockets(n.name)} not noticed yet` : "stopped";
    const about = running ? sockets(n.name) : n.state === "stopped" ? left : n.state;
    const path = `nodes/${encodeURIComponent(n.name)}/`;
    const b = running ? control("Stop", `Stop node ${n.name}`, path + "stop") : control(n.state === "stopped" ? "Start" : "…", `Start node ${n.name}`, path + "start", n.state === "stopped");
    b.dataset.key = n.name;
    return row(n.name, n.state, here, here ? `${about} · this tab` : about, b);
  });
  const others = known.others.map((name) => row(name, "running", name === tab.node, `${sockets(name)} · another process`));
  $("nodes-count").textContent = known.nodes.filter((n) => n.state === "running").length + others.length || "";
  keepFocus($("nodes"), [...items, ...others]);
}

function showWorld() {
  const items = [];
  const { redis } = known;
  if (redis === "running") items.push(row("Redis", redis, false, "running", control("Stop", "Stop Redis", "redis/stop")));
  else if (redis === "stopped") items.push(row("Redis", redis, false, "stopped", control("Start", "Start Redis with its data", "redis/start"), control("Start empty", "Start Redis without its data", "redis/start-empty")));
  else if (redis) items.push(row("Redis", "starting", false, redis));
  if (known.tabs) {
    const path = `tabs/${tab.id}/`;
    items.push(tab.cut ? row("This tab", "stopped", false, "network cut", control("Restore", "Restore this tab’s network", path + "restore"))
      : row("This tab", tab.node ? "running" : "starting", false, "network there", control("Cut", "Cut this tab’s network", path + "cut")));
  }
  $("world-section").hidden = items.length === 0;
  keepFocus($("world"), items);
}

async function order(path, label, b) {
  b.disabled = true;
  try {
    const response = await fetch(`api/${path}`, { method: "POST" });
    if (!response.ok) note("error", (await response.json()).error);
    else if (path.startsWith("tabs/")) tab.cut = path.endsWith("/cut");
  } catch {
    note("error", `The front door did not answer. “${label}” may have happened or not.`);
  }
  await refresh();
  changed(path);
}

// refresh asks for what runs without a socket, so that it can be started again when
// nothing is left.
export async function refresh() {
  try {
    const response = await fetch("api/nodes");
    if (response.ok) learn(await response.json());
  } catch { /* the front door is away, too: the next attempt tells */ }
}

export function openDrawer(open) {
  $("side").classList.toggle("open", open);
  $("drawer").setAttribute("aria-expanded", String(open));
  $("drawer").textContent = open ? "Chat" : "People";
}
