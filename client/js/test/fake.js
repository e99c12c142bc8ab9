// A clock and a WebSocket that a test moves by hand.

import { afterEach } from "node:test";

// HERALD_JS names the file that is tested: the source, or what is shipped, which is
// what a browser tests.
export const { Herald } = await import(globalThis.process ? process.env.HERALD_JS ?? "../herald.js" : "../herald.min.js");

const real = { setTimeout, clearTimeout, setInterval, clearInterval, now: Date.now, random: Math.random };
let now, timers, made;

function add(f, wait, every) {
  const id = Symbol();
  timers.set(id, { f, at: now + wait, every });
  return id;
}

export function start(random = () => 1) {
  now = 1e12;
  timers = new Map();
  made = [];
  globalThis.setTimeout = (f, wait) => add(f, wait);
  globalThis.setInterval = (f, wait) => add(f, wait, wait);
  globalThis.clearTimeout = globalThis.clearInterval = (id) => timers.delete(id);
  Date.now = () => now;
  Math.random = random;
}

afterEach(() => {
  const { now, random, ...functions } = real;
  Object.assign(globalThis, functions);
  Date.now = now;
  Math.random = random;
});

// settle lets all run that waits for nothing but its turn.
export const settle = () =>
  new Promise((done) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      done();
    };
    port2.postMessage(0);
  });

// pass lets time pass.
export async function pass(wait) {
  const end = now + wait;
  await settle();
  for (;;) {
    const [id, next] = [...timers].sort((a, b) => a[1].at - b[1].at)[0] ?? [];
    if (!next || next.at > end) break;
    now = Math.max(now, next.at);
    if (next.every) next.at += next.every;
    else timers.delete(id);
    next.f();
    await settle();
  }
  now = end;
}

// sleep lets time pass without a timer, as a closed laptop does.
export const sleep = (wait) => (now += wait);

export const running = () => timers.size;

// sockets returns all that were made.
export const sockets = () => made;

export class Socket {
  readyState = 0;
  bufferedAmount = 0;
  sent = [];
  constructor(url, protocols) {
    Object.assign(this, { url, protocols });
    made.push(this);
  }
  get query() {
    return new URL(this.url).searchParams;
  }
  open(...messages) {
    this.readyState = 1;
    this.onopen({});
    for (const m of messages) this.say(m);
    return this;
  }
  say(data) {
    this.onmessage({ data });
  }
  end(code = 1006, reason = "") {
    this.readyState = 3;
    this.onclose({ code, reason });
  }
  send(data) {
    this.sent.push(data);
  }
  close(...why) {
    const [code = 1000, reason = ""] = why;
    if (code != 1000 && !(code >= 3000 && code < 5000)) throw new DOMException("code", "InvalidAccessError");
    if (reason.length > 123) throw new DOMException("reason", "SyntaxError");
    if (this.readyState < 2) this.closed = why;
    this.readyState = 2;
  }
}

// socket waits until there is an n-th socket, and returns it.
export async function socket(n) {
  for (let i = 0; i < 1000 && made.length < n; i++) await pass(100);
  if (made.length < n) throw new Error(`there is no socket ${n}`);
  return made[n - 1];
}

// connect returns a Herald, with the events that it had.
export function connect(url = "ws://host/", options) {
  const ws = new Herald(url, { WebSocket: Socket, ...options });
  ws.events = [];
  for (const type of ["open", "welcome", "message", "gap", "disconnect", "error", "close"]) {
    ws.addEventListener(type, (e) => ws.events.push(e));
  }
  ws.told = () => ws.events.splice(0).map((e) => (e.type == "message" ? "message " + e.data : e.type));
  return ws;
}

export const welcome = (conn = "c.1", positions = "0.a.1", resumed = false) =>
  `w ${JSON.stringify({ herald: 1, conn, user: "42", positions, resumed })}\n`;

// page stands for a browser's window and document.
export function page(baseURI) {
  const document = Object.assign(new EventTarget(), { baseURI, hidden: false });
  const events = new EventTarget();
  const names = ["addEventListener", "removeEventListener"];
  globalThis.document = document;
  let listeners = 0;
  for (const name of names) {
    globalThis[name] = (type, f) => (events[name](type, f), (listeners += name[0] == "a" ? 1 : -1));
  }
  return {
    document,
    listeners: () => listeners,
    tell: (type) => (type == "visibilitychange" ? document : events).dispatchEvent(new Event(type)),
    leave() {
      delete globalThis.document;
      for (const name of names) delete globalThis[name];
    },
  };
}
