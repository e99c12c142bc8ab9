// One node of the Socket.IO contestant: Node's half of the protocol in server.go.
"use strict";

const { createServer } = require("http");
const fs = require("fs");
const readline = require("readline");
const { Server } = require("socket.io");
const { createAdapter } = require("@socket.io/redis-adapter");
const { createClient } = require("redis");

const mark = "~h:";
const hex = (v, digits) => v.toString(16).padStart(digits, "0");

function payload(number, at, size) {
  const head = mark + hex(number, 8) + hex(at, 16);
  if (bodies.length === 0) return head.padEnd(size, "x");
  const body = bodies[number % bodies.length];
  body.id = head;
  return body;
}

// What the messages are instead, of which the head is the id.
let bodies = [];

// The time in nanoseconds since 1970, to the microsecond.
const epoch = BigInt(Math.round((performance.timeOrigin) * 1000)) * 1000n;
const now = () => epoch + BigInt(Math.round(performance.now() * 1000)) * 1000n;

async function main() {
  const pub = createClient({ url: "redis://" + process.env.BENCH_REDIS });
  const sub = pub.duplicate();
  for (const client of [pub, sub]) client.on("error", (err) => console.error("socket.io:", err.message));
  await Promise.all([pub.connect(), sub.connect()]);
  const http = createServer();
  const io = new Server(http, {
    adapter: createAdapter(pub, sub),
    transports: ["websocket"],
    perMessageDeflate: process.env.BENCH_KIND === "socket.io-deflate",
  });
  io.on("connection", (socket) => {
    socket.join("#" + socket.handshake.query.user);
    socket.emit("ready");
  });
  await new Promise((done) => http.listen(0, "127.0.0.1", done));
  reply({ Addr: "127.0.0.1:" + http.address().port });

  function send(c, i, at) {
    const data = payload(c.First + i, at, c.Size);
    if (c.To === "everyone") {
      io.emit("m", data);
    } else {
      io.to("#u" + ((c.First + i) % c.Users)).emit("m", data);
    }
  }

  // emit returns nothing to wait for; so as not to fill the memory, each
  // round of messages waits for an answer from Redis.
  async function publish(c) {
    const start = performance.now();
    if (c.Rate > 0) {
      const begin = now();
      for (let i = 0; i < c.Count; ) {
        const due = Math.floor(((performance.now() - start) * c.Rate) / 1000);
        for (; i <= due && i < c.Count; i++) {
          send(c, i, begin + BigInt(Math.round((i * 1e9) / c.Rate)));
        }
        await new Promise((done) => setTimeout(done, 1));
      }
    } else {
      for (let i = 0; i < c.Count; ) {
        for (let n = 0; n < c.Senders && i < c.Count; n++, i++) send(c, i, now());
        await pub.ping();
      }
    }
    reply({ Elapsed: Math.round((performance.now() - start) * 1e6) });
  }

  for await (const line of readline.createInterface({ input: process.stdin })) {
    const c = JSON.parse(line);
    if (c.Do === "publish") {
      await publish(c);
      continue;
    }
    if (c.Do === "bodies") bodies = JSON.parse(fs.readFileSync(c.Path, "utf8")).map((text) => JSON.parse(text));
    if (c.Do === "settle") global.gc();
    const cpu = process.cpuUsage();
    const memory = process.memoryUsage();
    reply({ CPU: (cpu.user + cpu.system) * 1000, RSS: memory.rss, Memory: memory.heapUsed + memory.external });
  }
  process.exit(0);
}

function reply(answer) {
  process.stdout.write(JSON.stringify(answer) + "\n");
}

main();
