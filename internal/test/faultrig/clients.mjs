// Runs many clients of client/js, as lines of JSON on stdin say, and tells on stdout
// what they see. The only argument is the path of herald.js.

import { request } from "node:http";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { constants, inflateRawSync } from "node:zlib";

const { Herald } = await import(pathToFileURL(process.argv[2]));

const say = (id, what) => {
  const at = Math.floor((performance.timeOrigin + performance.now()) * 1e3); // microseconds
  process.stdout.write(JSON.stringify({ id, at, ...what }) + "\n");
};

// tail is what a compressed message leaves out at its end (RFC 7692, section 7.2.2).
const tail = Buffer.from([0, 0, 0xff, 0xff]);

// A Socket is as much of a WebSocket (RFC 6455) as a client of a Hub needs. Node has
// one since version 22, but this one can be cut and stalled.
class Socket {
  readyState = 0;
  bufferedAmount = 0;
  #rest = Buffer.alloc(0);
  #closed = [1006, ""];

  constructor(url, network) {
    network.current = this;
    const headers = {
      Connection: "Upgrade", Upgrade: "websocket", "Sec-WebSocket-Version": 13, "Sec-WebSocket-Key": "bm9ib2R5IGNoZWNrcyBpdA==",
      "Sec-WebSocket-Extensions": "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
    };
    const dial = (this.dialling = request(url.replace(/^ws/, "http"), { headers, agent: false }));
    dial.on("upgrade", (_, connection, head) => {
      this.connection = connection.setNoDelay(true);
      connection.on("data", (chunk) => this.#read(chunk));
      connection.on("error", () => {});
      connection.on("close", () => this.#ended());
      if (network.cut) return connection.destroy();
      this.readyState = 1;
      this.onopen?.();
      if (head.length) this.#read(head);
      if (network.stalled) connection.pause();
    });
    dial.on("response", (answer) => {
      answer.resume();
      this.#ended();
    });
    dial.on("error", () => this.#ended());
    dial.end();
    if (network.cut) this.drop();
  }

  send(data) {
    this.#write(1, Buffer.from(data));
  }

  close(code = 1000, reason = "") {
    if (this.readyState > 1) return;
    if (!this.connection) return this.drop();
    this.readyState = 2;
    const payload = Buffer.alloc(2 + Buffer.byteLength(reason));
    payload.writeUInt16BE(code);
    payload.write(reason, 2);
    this.#write(8, payload);
  }

  drop() {
    if (this.connection) this.connection.destroy();
    else this.dialling.destroy(new Error("cut"));
  }

  #ended() {
    if (this.readyState == 3) return;
    this.readyState = 3;
    const [code, reason] = this.#closed;
    this.onclose?.({ code, reason });
  }

  #write(opcode, payload) {
    const n = payload.length;
    const header = n < 126 ? Buffer.from([0x80 | opcode, 0x80 | n]) : Buffer.from([0x80 | opcode, 0x80 | 126, n >> 8, n & 255]);
    // A mask of zeros changes nothing.
    this.connection.write(Buffer.concat([header, Buffer.alloc(4), payload]));
  }

  #read(chunk) {
    let b = this.#rest.length ? Buffer.concat([this.#rest, chunk]) : chunk;
    while (b.length >= 2) {
      const length = b[1] & 127;
      const at = length < 126 ? 2 : length == 126 ? 4 : 10;
      if (b.length < at) break;
      const n = length < 126 ? length : length == 126 ? b.readUInt16BE(2) : Number(b.readBigUInt64BE(2));
      if (b.length < at + n) break;
      this.#frame(b[0], b.subarray(at, at + n));
      b = b.subarray(at + n);
    }
    this.#rest = b;
  }

  #frame(first, payload) {
    if (!(first & 0x80)) throw new Error("a Hub sends no fragments");
    if (first & 0x40) payload = inflateRawSync(Buffer.concat([payload, tail]), { finishFlush: constants.Z_SYNC_FLUSH });
    switch (first & 15) {
      case 1:
        return this.onmessage?.({ data: payload.toString() });
      case 2:
        return this.onmessage?.({ data: new Uint8Array(payload).buffer });
      case 8:
        if (payload.length >= 2) this.#closed = [payload.readUInt16BE(0), payload.toString("utf8", 2)];
        if (this.readyState == 1) this.#write(8, payload);
        return this.connection.end();
      case 9:
        return this.#write(10, payload);
    }
  }
}

const clients = new Map();

function start(id) {
  const network = { cut: false, stalled: false };
  const client = { network };
  clients.set(id, client);
  const url = () =>
    new Promise((answer) => {
      client.answer = answer;
      say(id, { ask: true });
    });
  const options = {
    minDelay: 1, maxDelay: 100, timeout: 3e4,
    WebSocket: function (url) {
      return new Socket(url, network);
    },
  };
  const ws = new Herald(url, options);
  ws.binaryType = "arraybuffer";
  const decoder = new TextDecoder();
  ws.onopen = () => say(id, { on: true });
  ws.onwelcome = (e) => say(id, { welcome: true, resumed: e.resumed });
  ws.ondisconnect = () => say(id, { off: true });
  ws.ongap = () => say(id, { gap: true });
  ws.onclose = (e) => say(id, { ended: e.code });
  // Behind what is told there is only padding. Most of it is NULs, which take six bytes each in JSON.
  ws.onmessage = ({ data }) => say(id, { data: (typeof data == "string" ? data : decoder.decode(data.slice(0, 200))).split("\0", 1)[0] });
}

createInterface({ input: process.stdin })
  .on("line", (line) => {
    const { id, url, cut, stall } = JSON.parse(line);
    const client = clients.get(id);
    if (!client) return start(id);
    if (url) return client.answer(url);
    const { network } = client;
    if (cut !== undefined) {
      network.cut = cut;
      if (cut) network.current?.drop();
    } else {
      network.stalled = stall;
      network.current?.connection?.[stall ? "pause" : "resume"]();
    }
  })
  .on("close", () => process.exit());
