// A WebSocket that comes back to where it was. It speaks to a herald Hub as
// PROTOCOL.md says, and to one that keeps nothing as any WebSocket does.

import { ID, address, less, parse, points } from "./frames.js";

const CONNECTING = 0, OPEN = 1, CLOSING = 2, CLOSED = 3;
const PLAIN = 1, HISTORY = 2;

// Close codes after which a client waits longer.
const LATER = [1002, 1007, 1008, 1009, 1013, 4429, 4503];

export class Herald extends EventTarget {
  readyState = CONNECTING;
  binaryType = "blob";

  #url;
  #options;
  #socket; // the present one: what earlier ones say is ignored
  #turn = 0; // counts tries to connect
  #mode; // what the socket speaks, once that is known
  #told; // a gap, and live, before the mode was known
  #hold; // whether what waits to be sent also waits for the node's first message
  #due; // the partitions in which what was missed is still to come
  #tries = 0; // in a row
  #late; // the server has asked for a longer pause
  #out = []; // what waits to be sent
  #heard = 0; // when something was
  #ticked = 0;
  #probes = 0; // that were sent
  #answered = 0; // the last that is not waited for
  #order = new WeakMap(); // the number of each message that was handed on
  #handed = 0; // the last of them
  #acked = 0; // the last of them that is processed
  #owed; // an acknowledgement
  #processed; // notes that the message which the handlers have now is processed
  #timers = {};

  // What is remembered from one connection to the next.
  #was = false; // connected
  #at = []; // [epoch, offset] by partition
  #left = []; // by partition: the epochs that were left, with their offsets
  #conns = [];
  #ids = [];
  #done; // the position behind what was processed

  constructor(url, options = {}) {
    super();
    this.#url = url;
    this.#options = { minDelay: 500, maxDelay: 3e4, timeout: 1e4, probe: 1e3, queue: 0, ack: true, WebSocket: globalThis.WebSocket, ...options };
    for (const type of ["open", "message", "gap", "welcome", "live", "disconnect", "error", "close"]) {
      this.addEventListener(type, (e) => this["on" + type]?.(e));
    }
    const { position } = this.#options;
    if (position) {
      const [from, conns] = position.split(" ");
      const all = points(from);
      this.#conns = conns === undefined ? [] : conns.split(",");
      if (!all || this.#conns.length > 4 || !this.#conns.every((id) => ID.test(id))) throw new SyntaxError("herald: malformed position");
      this.#was = true;
      for (const p of all) this.#take(p);
    }
    this.#done = this.#position();
    if (!this.#options.WebSocket) return; // a page that is rendered on a server
    if (typeof url != "function") address(url);
    this.#listen("addEventListener");
    this.#timers.tick = setInterval(() => this.#tick(), 5e3);
    this.#ticked = Date.now();
    this.#connect();
  }

  // position is where a new Herald goes on: behind what was processed.
  get position() {
    return this.#done;
  }

  get bufferedAmount() {
    return this.#socket?.bufferedAmount ?? 0;
  }

  send(data) {
    if (this.readyState > OPEN) return;
    const room = this.#open() ? 1024 : this.#options.queue;
    if (this.#out.length >= room) throw new Error("herald: " + (room ? "the queue is full" : "not connected (see the option queue)"));
    // As in a WebSocket all but buffers and blobs is text, which may begin with @.
    this.#out.push((data?.byteLength ?? data?.size) === undefined ? `${data}` : data);
    this.#flush();
  }

  // ack says that a message is processed, and all before it.
  ack(event) {
    const n = event && this.#order.get(event);
    if (event && !(n > this.#acked)) return; // a later one is processed, or a plain node came since
    this.#process(n, event?.position);
    this.#owed = true;
    this.#acknowledge();
  }

  // check finds out whether the connection is alive. If there is none, it
  // connects.
  check() {
    // A node that has said nothing yet may be a plain one, and cannot be probed.
    if (this.#open() && !this.#mode && Date.now() - this.#heard > this.#options.timeout) this.#lost("silent");
    else if (this.#socket) this.#probe(this.#options.probe);
    else if (this.readyState == CONNECTING && !this.#late && this.#timers.retry) this.#connect();
  }

  close(code, reason) {
    const { readyState } = this;
    if (readyState > OPEN) return;
    this.readyState = CLOSING;
    if (!this.#socket) return this.#lost("");
    try {
      this.#processed?.();
      this.#acknowledge(true);
      this.#socket.close(code, reason);
    } catch (error) {
      this.readyState = readyState; // a WebSocket refuses some codes and reasons
      throw error;
    }
  }

  #open() {
    return this.#socket?.readyState == OPEN;
  }

  // emit tells what has happened. After close() only the end is told.
  #emit(type, values) {
    if (this.readyState == CLOSING) return;
    const event = Object.assign(new Event(type), values);
    if (type == "message") this.#order.set(event, ++this.#handed);
    this.dispatchEvent(event);
  }

  // after calls f later, unless the timer is stopped or set again before.
  #after(name, wait, f) {
    this.#stop(name);
    this.#timers[name] = setTimeout(() => {
      this.#stop(name);
      f();
    }, wait);
  }

  #stop(...names) {
    for (const name of names) {
      clearTimeout(this.#timers[name]);
      delete this.#timers[name];
    }
  }

  #listen(how) {
    globalThis.document?.[how]("visibilitychange", this.#wake);
    for (const type of ["online", "pageshow"]) globalThis[how]?.(type, this.#wake);
  }

  #wake = () => {
    if (!globalThis.document?.hidden) this.check();
  };

  // tick notices that the machine has slept, and that nothing was heard for long.
  #tick() {
    const now = Date.now();
    const slept = now - this.#ticked > 15e3;
    this.#ticked = now;
    if (slept) this.check();
    else if (now - this.#heard > 3e4 && this.#answered == this.#probes) this.#probe(this.#options.timeout);
  }

  async #connect() {
    const turn = ++this.#turn;
    const { protocols, timeout, WebSocket } = this.#options;
    this.#stop("retry");
    this.#after("dial", timeout, () => this.#lost("timeout"));
    let socket;
    try {
      const url = await (typeof this.#url == "function" ? this.#url() : this.#url);
      if (turn != this.#turn) return;
      const [from, conns] = this.#position().split(" ");
      socket = new WebSocket(address(url, "herald=1" + (from && "&herald.from=" + from) + (conns ? "&herald.conn=" + conns : "")), protocols);
    } catch (error) {
      await 0; // nobody can listen before the constructor has returned
      if (turn == this.#turn) {
        this.#emit("error", { error });
        if (turn == this.#turn) this.#lost(String(error)); // a handler may have closed it
      }
      return;
    }
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => turn == this.#turn && this.#opened();
    socket.onmessage = (e) => turn == this.#turn && this.#receive(e.data);
    socket.onclose = (e) => turn == this.#turn && this.#lost(e.reason, e.code);
  }

  #opened() {
    this.#stop("dial");
    if (this.readyState == CLOSING) return;
    this.readyState = OPEN;
    this.#heard = Date.now();
    this.#hold = this.#out.length > 0;
    // A welcome would have come at once. A node that keeps nothing may say nothing.
    this.#after("greeting", this.#options.timeout / 5, () => {
      this.#told = true;
      this.#hold = false;
      if (this.#was) this.#emit("gap", {});
      this.#emit("live");
      this.#flush();
    });
    this.#emit("open");
    this.#flush();
  }

  // lost ends the connection, and makes another one later.
  #lost(reason, code = 1006) {
    const socket = this.#socket;
    this.#socket = this.#mode = this.#told = undefined;
    this.#was ||= this.readyState == OPEN;
    this.#turn++;
    this.#stop("dial", "greeting", "ack", "retry");
    this.#answer(this.#probes);
    socket?.close();
    if (this.readyState >= CLOSING || code == 4409) {
      this.readyState = CLOSED;
      clearInterval(this.#timers.tick);
      this.#listen("removeEventListener");
      this.#out = [];
      return this.#emit("close", { code, reason, wasClean: code != 1006 });
    }
    this.readyState = CONNECTING;
    this.#late = LATER.includes(code) || ((code == 4401 || code == 4410) && typeof this.#url != "function");
    if (this.#late) this.#tries = Math.max(this.#tries, 4);
    const { minDelay, maxDelay } = this.#options;
    const wait = Math.round(Math.random() * Math.min(maxDelay, minDelay * 2 ** this.#tries++));
    this.#after("retry", wait, () => this.#connect());
    this.#emit("disconnect", { code, reason, wait });
  }

  #flush() {
    while (this.#out.length && this.#open() && !this.#hold) {
      let data = this.#out[0];
      if (data[0] == "@") {
        if (!this.#mode) return; // it is not known yet what that means to the node
        if (this.#mode == HISTORY) data = "@" + data;
      }
      this.#out.shift();
      this.#socket.send(data);
    }
  }

  // probe sends a probe. Each has a time of its own, because an answer says nothing of
  // the probes behind it.
  #probe(wait) {
    if (this.#mode != HISTORY || !this.#open()) return;
    this.#socket.send("@?" + ++this.#probes);
    this.#after("probe" + this.#probes, wait, () => this.#lost("silent"));
  }

  // answer ends the waiting for the n-th probe, and for those before it.
  #answer(n) {
    while (this.#answered < n && this.#answered < this.#probes) this.#stop("probe" + ++this.#answered);
  }

  // process notes how far all is processed.
  #process(n = this.#handed, position = this.#position()) {
    this.#acked = n;
    this.#done = position;
  }

  // acknowledge tells what is owed, at once and then once a second, or now.
  #acknowledge(now) {
    const [from] = this.#done.split(" ");
    if (this.#mode != HISTORY || !this.#open() || !this.#owed || !from || (this.#timers.ack && !now)) return;
    this.#owed = false;
    this.#socket.send("@ " + from);
    this.#after("ack", 1e3, () => this.#acknowledge());
  }

  // receive takes a message of the socket's.
  #receive(data) {
    if (this.readyState == CLOSING) return;
    this.#heard = Date.now();
    this.#stop("greeting");
    const f = (this.#mode != PLAIN && (this.#mode || typeof data == "string") && parse(data)) || undefined;
    if (!this.#mode) return this.#greeted(f?.welcome && f, data);
    if (this.#mode == PLAIN) return this.#message(data);
    if (!f || f.welcome) {
      this.#socket.close(4000);
      return this.#lost("malformed frame", 4000);
    }
    if (!f.end && !f.gap) this.#tries = 0; // those come with each resume
    const clean = this.#acked == this.#handed;
    const again = f.id && this.#ids.includes(f.id);
    if (f.id && !again) this.#ids = [...this.#ids.slice(-999), f.id];
    const been = f.at?.length && this.#take(f.at);
    if (f.kind == "m" && !again && !been) this.#message(f.data, f.at);
    else if (clean || this.#options.ack) this.#process();
    if (f.missing) this.#emit("gap", f.gap);
    if (f.end && this.#due.delete(f.at[0])) this.#live();
    this.#answer(f.n);
  }

  // greeted takes the first message: a welcome, or the message of a node that
  // keeps nothing.
  #greeted(f, data) {
    const { conn, user, resumed } = f?.welcome ?? {};
    const missing = this.#was && !resumed && !this.#told;
    const clean = this.#acked == this.#handed;
    this.#was = true;
    this.#mode = f ? HISTORY : PLAIN;
    const at = f ? f.at : [];
    this.#at.forEach((_, i) => at.some((p) => p[0] == i) || this.#leave(i));
    for (const p of at) this.#take(p);
    if (f) this.#conns = [conn, ...this.#conns].slice(0, 4);
    if (clean || this.#options.ack || !f) this.#process();
    if (f) {
      this.#emit("welcome", { conn, user, resumed: !!resumed });
      this.#acknowledge();
    }
    if (missing) this.#emit("gap", {});
    this.#due = new Set(resumed ? at.map((p) => p[0]) : []);
    this.#live();
    this.#hold = false;
    this.#flush();
    if (!f) this.#message(data);
  }

  // live tells, once, that what was missed has come.
  #live() {
    if (!this.#due.size && !this.#told) this.#emit("live");
  }

  #message(data, at) {
    if (this.#mode == PLAIN) this.#tries = 0;
    if (typeof data != "string" && this.binaryType == "blob") data = new Blob([data]);
    this.#processed = () => {
      this.#processed = undefined;
      if (!this.#options.ack) return;
      if (at?.length) this.ack();
      else this.#process();
    };
    this.#emit("message", { data, position: this.#position() });
    this.#processed?.();
  }

  #leave(i) {
    const [epoch, offset] = this.#at[i];
    const left = (this.#left[i] ??= new Map());
    const before = left.get(epoch);
    left.delete(epoch);
    left.set(epoch, before && less(offset, before) ? before : offset);
    if (left.size > 4) left.delete(left.keys().next().value);
    delete this.#at[i];
  }

  // take takes a position. It says whether the client has been there.
  #take([i, epoch, offset]) {
    const noted = this.#left[i]?.get(epoch);
    const at = this.#at[i];
    if (at && at[0] != epoch) this.#leave(i);
    this.#at[i] = [epoch, at && at[0] == epoch && less(offset, at[1]) ? at[1] : offset];
    return noted && !less(noted, offset);
  }

  #position() {
    // Partitions without a position are holes, which flatMap leaves out.
    return this.#at.flatMap((p, i) => [i, ...p].join(".")).join() + (this.#conns.length ? " " + this.#conns : "");
  }
}

for (const o of [Herald, Herald.prototype]) Object.assign(o, { CONNECTING, OPEN, CLOSING, CLOSED });
