// What this tab has sent and not seen again.
//
// A message that is sent as its node dies may be lost, or may have gone out. So each
// has an id, and stays here until it has come back from the room: then everybody else
// gets it, too. Until then it is sent again, with the same id, whenever that seems
// needed. Whoever gets it twice shows it once. Messages go out one by one, each when
// the one before has come back: so they keep their order, whatever happens.

import { $ } from "./dom.js";
import { keepEnd, speech } from "./log.js";
import { newID, tab } from "./tab.js";

const most = 100;
const patience = 3000; // ms until a message that has not come back is sent again

let waiting = []; // the oldest first
let transmit = null; // sends a text, while what was missed is not still coming
let why = ""; // the first one does not go out now
let timer = 0;

// restore takes what the tab had not sent when it was reloaded.
export function restore() {
  waiting = JSON.parse(sessionStorage.getItem(key()) ?? "[]");
  show();
}

const key = () => `outbox of ${tab.me}`;

function changed() {
  if (waiting.length) sessionStorage.setItem(key(), JSON.stringify(waiting));
  else sessionStorage.removeItem(key());
  show();
}

// put sends a message, now or later. It says whether there was room for it.
export function put(type, to, text) {
  if (waiting.length >= most) return false;
  waiting.push({ type, to, text, id: newID() });
  if (waiting.length === 1) next();
  changed();
  return true;
}

// open has messages sent with f from now on, and close waits for the next open.
export function open(f) {
  transmit = f;
  next();
  show();
}

export function close() {
  transmit = null;
  clearTimeout(timer);
  show();
}

function next() {
  clearTimeout(timer);
  if (!transmit || !waiting.length) return;
  const { type, to, text, id } = waiting[0];
  transmit(JSON.stringify(type === "direct" ? { type, to, text, id } : { type, text, id }));
  timer = setTimeout(next, patience);
}

// cameBack takes a message out that has come back. It says whether it was there.
export function cameBack(id) {
  const i = waiting.findIndex((m) => m.id === id);
  if (i < 0) return false;
  waiting.splice(i, 1);
  why = "";
  if (i === 0) next();
  changed();
  return true;
}

// refused takes a message out that the node will never take. Another one is tried again.
// It says whether the message was there.
export function refused(f) {
  const there = waiting.some((m) => m.id === f.id);
  if (there && f.again) {
    why = f.text;
    show();
  } else if (there) {
    cameBack(f.id);
  }
  return there;
}

export function show() {
  const free = transmit && !tab.cut;
  const about = free ? why || "sending" : "waits for the connection";
  keepEnd(() => {
    $("outbox").replaceChildren(...waiting.map((m) => speech({ ...m, from: tab.me }, false, about)));
  });
  const n = waiting.length;
  $("waiting").textContent = !n || (free && !why) ? "" : `${n === 1 ? "1 message waits" : `${n} messages wait`} to be sent.`;
}
