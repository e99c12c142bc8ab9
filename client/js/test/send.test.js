// What the application sends, and when it goes out.

import assert from "node:assert/strict";
import { test } from "node:test";
import { connect, pass, socket, sockets, start, welcome } from "./fake.js";

test("text that begins with @, to a node that has it as control", async () => {
  start();
  const ws = connect();
  const s = (await socket(1)).open();
  ws.send("@bob");
  s.say(welcome());
  ws.send("@?1");
  ws.send(new Uint8Array([64]));
  assert.deepEqual(s.sent, ["@@bob", "@@?1", new Uint8Array([64])]);
});

test("what is sent while there is no connection", async () => {
  start();
  const off = connect();
  assert.throws(() => off.send("x"), /not connected/);
  off.close();
  start();
  const ws = connect("ws://host/", { queue: 2 });
  ws.send("one");
  ws.send("@two");
  assert.throws(() => ws.send("three"), /full/);
  const s = (await socket(1)).open();
  assert.deepEqual(s.sent, []);
  s.say(welcome());
  assert.deepEqual(s.sent, ["one", "@@two"]);
  s.readyState = 2; // it is about to end
  ws.send("four");
  s.end();
  (await socket(2)).open(welcome());
  assert.deepEqual(sockets()[1].sent, ["four"]);
});

test("what waits is not lost on a connection that is refused after the upgrade", async () => {
  for (const known of [false, true]) {
    start();
    const ws = connect(() => "ws://host/", { queue: 10 });
    let n = 0;
    if (known) (await socket(++n)).open(welcome()).end(4410, "expired");
    ws.send("first");
    const refused = (await socket(++n)).open();
    ws.send("second"); // it must not overtake the first
    refused.end(4401, "not authenticated");
    ws.onopen = () => ws.send("third");
    const s = (await socket(++n)).open(welcome("c.2", "0.a.1", known));
    assert.deepEqual([refused.sent, s.sent], [[], ["first", "second", "third"]]);
  }
});

test("what waits is sent to a plain node that says nothing", async () => {
  start();
  const ws = connect("ws://host/", { queue: 10 });
  ws.send("first");
  const s = (await socket(1)).open();
  ws.send("second");
  await pass(1999);
  assert.deepEqual(s.sent, []);
  await pass(1);
  ws.send("third");
  assert.deepEqual(s.sent, ["first", "second", "third"]);
});

test("what is no string is sent as a WebSocket sends it", async () => {
  const bytes = [new Uint8Array([64]), new Uint8Array([64]).buffer, new DataView(new ArrayBuffer(1)), new Blob(["@"])];
  for (const [first, at] of [["bare", "@"], [welcome(), "@@"]]) {
    start();
    const ws = connect("ws://host/", { queue: 100 });
    ws.send(null);
    ws.send(["@bob"]);
    ws.send();
    const s = (await socket(1)).open(first);
    for (const data of [0, { toString: () => "@" }, "", ...bytes]) ws.send(data);
    assert.deepEqual(s.sent, ["null", at + "bob", "undefined", "0", at, "", ...bytes]);
    assert.ok(bytes.every((b) => s.sent.includes(b)));
  }
});
