// The vectors of PROTOCOL.md.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { connect, pass, running, settle, socket, start, welcome } from "./fake.js";

const load = (name) => JSON.parse(readFileSync(new URL(`../../../testdata/protocol/${name}.json`, import.meta.url)));

const interesting = (told) => told.filter((t) => t == "gap" || t.startsWith("message "));

for (const session of load("sessions")) {
  test(session.name, async () => {
    start(Math.random);
    let ws = connect(() => "ws://host/");
    let n = 0;
    for (const c of session.connections) {
      if (c.restart) {
        ws.close();
        ws = connect(() => "ws://host/", { position: ws.position });
      }
      const s = await socket(++n);
      assert.equal(s.query.get("herald"), "1");
      assert.equal(s.query.get("herald.from") ?? "", c.from);
      assert.deepEqual((s.query.get("herald.conn") ?? "").split(",").filter(Boolean), c.conns);
      ws.told();
      if (!c.status) s.open();
      let malformed = false;
      c.frames.forEach((f, i) => {
        s.say(f.frame);
        const told = ws.told();
        const expected = [...(f.missing ? ["gap"] : []), ...(f.message == null ? [] : ["message " + f.message])];
        assert.deepEqual(interesting(told), expected, f.frame);
        if (i == 0) assert.equal(told.includes("welcome"), !f.plain, f.frame);
        if (f.malformed) {
          malformed = true;
          assert.deepEqual(s.closed, [4000]);
        }
      });
      if (c.acknowledged) {
        await pass(5000);
        const last = s.sent.filter((t) => t.startsWith("@ ")).at(-1);
        const at = (text, p) => text.split(",").find((t) => t.startsWith(p + "."))?.split(".");
        for (const want of c.acknowledged.split(",")) {
          const [p, epoch, offset] = want.split(".");
          const got = at(last.slice(2), p);
          assert.ok(got?.[1] == epoch && BigInt(got[2]) >= BigInt(offset), `${last} is not ${c.acknowledged}`);
        }
      }
      if (!malformed) s.end(c.close ?? 1006);
      if (c.last) {
        assert.equal(ws.readyState, ws.CLOSED);
        await pass(100_000);
        assert.equal(running(), 0);
      }
    }
    ws.close();
  });
}

const frames = load("frames");

// fed gives a fresh Herald a frame behind a welcome.
async function fed(frame, options) {
  start();
  const ws = connect("ws://host/", options);
  const s = (await socket(1)).open();
  if (!frame.startsWith("w ")) s.say(welcome());
  ws.told();
  s.say(frame);
  await settle();
  return { ws, s };
}

test("what the server sends", async () => {
  for (const v of frames.server) {
    const { ws, s } = await fed(v.frame);
    assert.equal(s.closed, undefined, v.frame);
    const [e] = ws.events;
    if (v.kind == "message") assert.equal(e.data, v.payload);
    if (v.kind == "gap") {
      assert.equal(e.type, "gap");
      for (const t of ["since", "until"]) assert.equal(+(e[t] ?? NaN), v[t] ? Date.parse(v[t]) : NaN);
    }
    if (v.kind == "welcome") {
      const { conn, user, resumed } = e;
      assert.deepEqual({ conn, user, resumed }, { conn: v.conn, user: v.user, resumed: !!v.resumed });
      assert.equal(ws.position, `${v.positions} ${v.conn}`);
    }
    const at = v.position ? (v.position.startsWith("0.") ? v.position : "0.a.1," + v.position) : "0.a.1";
    if (v.kind != "welcome") assert.equal(ws.position, at + " c.1", v.frame);
    assert.equal(interesting(ws.told()).length, v.kind == "message" || v.kind == "gap" || v.verdict == "incomplete" ? 1 : 0, v.frame);
  }
  for (const frame of frames.ignored) {
    const { ws, s } = await fed(frame);
    assert.deepEqual([ws.told(), s.closed, ws.position], [[], undefined, "0.a.1 c.1"], frame);
  }
  for (const frame of frames.refused) {
    if (frame.startsWith("w ")) { // as the first message it is the application's, and later no welcome may come
      const { ws } = await fed(frame);
      assert.deepEqual(ws.told(), ["message " + frame], frame);
      continue;
    }
    const { ws, s } = await fed(frame);
    assert.equal(s.closed?.[0], 4000, frame);
    assert.deepEqual(ws.told(), ["disconnect"], frame);
    assert.equal(ws.position, "0.a.1 c.1", frame);
  }
});

test("messages in binary", async () => {
  const bytes = (text) => new TextEncoder().encode(text).buffer;
  for (const v of frames.server.filter((v) => v.kind == "message")) {
    start();
    const ws = connect();
    ws.binaryType = "arraybuffer";
    const s = (await socket(1)).open(welcome());
    ws.told();
    s.say(bytes(v.frame));
    assert.equal(new TextDecoder().decode(ws.events[0].data), v.payload);
  }
  for (const frame of frames.refused.filter((f) => f.startsWith("m"))) {
    start();
    connect();
    const s = (await socket(1)).open(welcome());
    s.say(bytes(frame));
    assert.equal(s.closed?.[0], 4000, frame);
  }
});

test("what the client sends", async () => {
  for (const v of frames.client.filter((v) => v.kind == "text")) {
    const { ws, s } = await fed("p 0.a.2\n");
    ws.send(v.payload);
    assert.deepEqual(s.sent, [v.frame]);
  }
});

test("positions", async () => {
  const { valid, refused } = load("positions");
  for (const v of valid) {
    start();
    connect("ws://host/", { position: v.text + " c.0" });
    const s = await socket(1);
    assert.equal(s.query.get("herald.from") ?? "", v.text);
  }
  for (const text of refused.filter((t) => !t.includes(" "))) { // behind a space are the connections
    start();
    assert.throws(() => connect("ws://host/", { position: text }), SyntaxError, text);
    assert.equal(running(), 0);
  }
});

test("queries", async () => {
  for (const v of frames.queries.filter((v) => !v.reading)) {
    start();
    const own = v.query.slice(0, v.query.indexOf("herald=")).replace(/&$/, "");
    if (v.from || v.conns.length) connect("ws://host/" + (own && "?" + own), { position: v.from + (v.conns.length ? " " + v.conns : "") });
    else connect("ws://host/" + (own && "?" + own));
    assert.equal(new URL((await socket(1)).url).search, "?" + v.query);
  }
});
