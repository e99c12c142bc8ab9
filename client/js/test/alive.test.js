// Whether the connection is alive, and who finds out when.

import assert from "node:assert/strict";
import { test } from "node:test";
import { connect, page, pass, settle, sleep, socket, sockets, start, welcome } from "./fake.js";

test("a handshake that takes too long, a URL too", async () => {
  start();
  const ws = connect();
  const s = await socket(1);
  await pass(11_000);
  assert.equal(sockets().length, 2);
  assert.deepEqual(s.closed, []);
  s.open(welcome("old")); // it counts no more
  assert.deepEqual(ws.told(), ["disconnect"]);
  start();
  let n = 0;
  connect(() => (n++ ? "ws://host/" : new Promise(() => {})));
  await pass(11_000);
  assert.equal(sockets().length, 1);
});

test("on wake a dead socket is found in a second, and what it says is ignored", async () => {
  for (const type of ["online", "pageshow", "visibilitychange"]) {
    start();
    const p = page();
    const ws = connect();
    const dead = (await socket(1)).open(welcome());
    p.document.hidden = true;
    p.tell("visibilitychange");
    assert.deepEqual(dead.sent, []);
    p.document.hidden = false;
    p.tell(type);
    assert.deepEqual(dead.sent, ["@?1"]);
    ws.told();
    await pass(1000);
    assert.deepEqual(ws.told(), ["disconnect"]);
    const next = await socket(2);
    dead.say("m 0.a.2\nfrom the grave");
    dead.end(1000);
    next.open(welcome("c.2", "0.a.1", true), "m 0.a.2\nalive");
    assert.deepEqual(ws.told(), ["open", "welcome", "message alive"]);
    ws.close();
    next.end();
    assert.equal(p.listeners(), 0);
    p.leave();
  }
});

test("an answer proves that the socket lived when it was asked, and not later", async () => {
  start();
  const ws = connect();
  const s = (await socket(1)).open(welcome());
  ws.check();
  await pass(500);
  ws.check();
  s.say("! 1\n");
  await pass(900);
  assert.equal(sockets().length, 1);
  s.say("! 2\n");
  await pass(25_000);
  assert.equal(sockets().length, 1);
  ws.check();
  ws.check();
  s.say("! 3\n");
  ws.told();
  await pass(1000);
  assert.deepEqual(ws.told(), ["disconnect"]);
  const next = (await socket(2)).open(welcome("c.2", "0.a.1", true));
  await pass(20_000); // the old probes are forgotten
  ws.check();
  next.say("! 9007199254740991\n"); // a number that was never sent does no harm
  await pass(5000);
  assert.equal(sockets().length, 2);
});

test("however often it is checked, a dead socket is found in a second", async () => {
  for (const pause of [1, 400, 900]) {
    start();
    const ws = connect();
    (await socket(1)).open(welcome());
    ws.told();
    for (let t = 0; t < 1000; t += pause) {
      assert.deepEqual(ws.told(), []);
      ws.check();
      await pass(pause);
    }
    assert.deepEqual(ws.told(), ["disconnect"]);
  }
});

test("on wake a connection on which nothing has come for long is given up", async () => {
  start();
  const p = page();
  const ws = connect();
  (await socket(1)).open();
  await pass(10_000);
  p.tell("online");
  assert.equal(ws.readyState, ws.OPEN);
  await pass(1);
  ws.told();
  p.tell("online");
  assert.deepEqual(ws.told(), ["disconnect"]);
  const plain = (await socket(2)).open("bare"); // it has spoken, and cannot be probed
  await pass(1e6);
  p.tell("online");
  assert.deepEqual([sockets().length, plain.sent], [2, []]);
  p.leave();
});

test("on wake a pause ends, but not one that the server asked for", async () => {
  for (const [code, n] of [[1006, 2], [1013, 1]]) {
    start();
    const p = page();
    connect("ws://host/", { minDelay: 10_000 });
    (await socket(1)).end(code);
    p.tell("online");
    p.tell("online");
    await settle();
    assert.equal(sockets().length, n);
    p.leave();
  }
});

test("a sleep without events is noticed", async () => {
  start();
  connect();
  const s = (await socket(1)).open(welcome());
  await pass(10_000);
  sleep(3_600_000);
  await pass(5000);
  assert.deepEqual(s.sent, ["@?1"]);
  await pass(1600);
  assert.equal(sockets().length, 2);
});

test("silence", async () => {
  start();
  connect();
  const s = (await socket(1)).open(welcome());
  await pass(40_000);
  assert.deepEqual(s.sent, ["@?1"]);
  s.say("! 1\n");
  await pass(40_000);
  assert.deepEqual(s.sent, ["@?1", "@?2"]);
  await pass(10_000);
  assert.equal(sockets().length, 2);
});
