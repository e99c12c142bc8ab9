// The messages.

import { $, bdi, face, make } from "./dom.js";
import { tab } from "./tab.js";

const maxLines = 500;

let last = null; // the last message shown, if nothing came after it
const seen = new Set(); // the messages with an id: whoever sends one again does not know whether it came
const fates = new Map(); // by the id of a direct message of this tab's: its receipt

// bound keeps a set or a map from growing for ever.
function bound(all) {
  if (all.size > 4 * maxLines) all.delete(all.keys().next().value);
}

// keepEnd changes what is shown, and goes on showing its end if it did before.
export function keepEnd(change) {
  const view = $("view");
  const atEnd = view.scrollHeight - view.scrollTop - view.clientHeight < 80;
  change();
  if (atEnd) view.scrollTop = view.scrollHeight;
}

function append(line) {
  keepEnd(() => {
    const log = $("log");
    log.append(line);
    while (log.children.length > maxLines) log.firstChild.remove();
  });
}

// note shows a line that nobody has said.
export function note(kind, ...inside) {
  last = null;
  append(make("li", `note ${kind}`, ...inside));
}

// gap tells that something may be missing here, once in a row.
export function gap() {
  if ($("log").lastElementChild?.classList.contains("gap")) return;
  note("lost gap", "Something may be missing here. A real service would fetch it from its database now.");
}

// said shows a message, unless it was shown before. It says whether it was new.
export function said(f) {
  const key = f.id && JSON.stringify([f.from, f.id]);
  if (key) {
    if (seen.has(key)) return false;
    seen.add(key);
    bound(seen);
  }
  const more = last && ["type", "from", "to", "device", "node"].every((k) => last[k] === f[k]);
  const line = speech(f, more, new Date(f.at ?? Date.now()).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  if (f.from === tab.me && f.id) line.dataset.id = f.id;
  last = f;
  $("hint").hidden = true;
  append(line);
  if (fates.has(f.id)) showFate(line, fates.get(f.id));
  return true;
}

// speech returns the line of a message.
export function speech(f, more, ...about) {
  const direct = f.type === "direct";
  const head = make("div", "head", bdi(f.from));
  if (direct) {
    head.append(make("span", "tag", ...(f.from !== tab.me ? ["to you alone"] : f.to === tab.me ? ["to yourself"] : ["to ", bdi(f.to), " alone"])));
  }
  head.append(make("small", "", [f.device, f.node && `node ${f.node}`, ...about].filter(Boolean).join(" · ")));
  return make("li", `said${direct ? " direct" : ""}${more ? " more" : ""}`, face(f.from), make("div", "", head, make("div", "body", f.text)));
}

// received shows the receipt of a direct message below it.
export function received(f) {
  if (!f.id) return;
  fates.set(f.id, f);
  bound(fates);
  const line = [...$("log").children].find((e) => e.dataset.id === f.id);
  if (line) keepEnd(() => showFate(line, f));
}

function showFate(line, f) {
  line.lastElementChild.append(make("div", `fate ${f.state}`, bdi(f.to), f.state === "received" ? `: ${f.text}` : ` ${f.text}.`));
  last = null; // what comes next gets a head of its own
}
