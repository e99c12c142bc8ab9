import assert from "node:assert/strict";
import { test } from "node:test";
import { Herald, Socket, connect, page, pass, running, settle, socket, sockets, start, welcome } from "./fake.js";

test("it has the shape of a WebSocket", async () => {
  start();
  const ws = new Herald("ws://host/chat", { WebSocket: Socket, protocols: ["v1"] });
  const told = [];
  for (const type of ["open", "message", "close"]) ws["on" + type] = (e) => told.push([type, e.data ?? e.code, ws.readyState]);
  assert.equal(ws.readyState, Herald.CONNECTING);
  const s = await socket(1);
  assert.deepEqual([s.url, s.protocols, s.binaryType], ["ws://host/chat?herald=1", ["v1"], "arraybuffer"]);
  s.open();
  ws.send("Hello");
  s.say("Hello to you");
  s.say(new Uint8Array([64, 1]).buffer);
  assert.ok(told[2][1] instanceof Blob);
  assert.equal(told[2][1].size, 2);
  ws.close(1000, "bye");
  assert.deepEqual(s.closed, [1000, "bye"]);
  assert.equal(ws.readyState, ws.CLOSING);
  s.say("too late");
  s.end(1000, "bye");
  told.splice(2, 1);
  assert.deepEqual(told, [["open", undefined, ws.OPEN], ["message", "Hello to you", ws.OPEN], ["close", 1000, ws.CLOSED]]);
  assert.deepEqual(s.sent, ["Hello"]);
  ws.send("nowhere");
  await pass(1e6);
  assert.equal(sockets().length, 1);
  assert.equal(running(), 0);
});

test("close with a code or a reason that a WebSocket refuses", async () => {
  for (const why of [[1001], [1000, "x".repeat(124)]]) {
    for (const first of [[], ["bare"], [welcome(), "m 0.a.2\nx"]]) {
      start();
      const ws = connect();
      const s = await socket(1);
      assert.throws(() => ws.close(...why), DOMException);
      assert.equal(ws.readyState, ws.CONNECTING);
      s.open(...first);
      assert.throws(() => ws.close(...why), DOMException);
      assert.equal(ws.readyState, ws.OPEN);
      ws.told();
      s.say(first.length == 2 ? "m 0.a.3\nafter" : "after");
      assert.deepEqual(ws.told(), ["message after"]);
      ws.close(4000, "bye");
      assert.deepEqual(s.closed, [4000, "bye"]);
      s.end(4000);
      assert.deepEqual([ws.told(), ws.readyState], [["close"], ws.CLOSED]);
    }
  }
});

test("close in a handler is the end of what is told", async () => {
  for (const [type, ...frames] of [
    ["disconnect"],
    ["error"],
    ["open"],
    ["welcome", welcome("c.2", "0.b.1")],
    ["gap"], // a node that says nothing
    ["gap", welcome("c.2", "0.b.1")],
    ["gap", "bare"],
    ["gap", welcome("c.2", "0.a.2", true), "p 0.a.2 incomplete\n"],
    ["message", welcome("c.2", "0.a.2", true), "m 0.a.3\nx", "g {}\n"],
  ]) {
    start();
    let url = () => "ws://host/";
    const ws = connect(() => url());
    const first = (await socket(1)).open(welcome());
    ws["on" + type] = () => {
      ws.told();
      ws.close();
    };
    if (type == "error") url = () => Promise.reject("no token");
    first.end();
    await pass(1000);
    if (sockets().length == 2) {
      sockets()[1].open(...frames);
      await pass(3000);
      sockets()[1].end();
    }
    assert.deepEqual(ws.told().sort(), ["close", type == "message" ? "message x" : type].sort());
    assert.equal(running(), 0);
  }
});

test("what is no URL is refused at once, and what a function returns is tried again", async () => {
  for (const url of [undefined, null, 42, {}, "", "host/", "ftp://host/", "localhost:8080/ws", "ws://["]) {
    start();
    assert.throws(() => new Herald(url, { WebSocket: Socket }), SyntaxError, String(url));
    assert.equal(running(), 0);
    const ws = connect(() => url);
    await settle();
    assert.deepEqual(ws.told(), ["error", "disconnect"], String(url));
    assert.ok(running() > 0);
    ws.close();
  }
});

test("what a WebSocket takes as a URL", async () => {
  for (const [url, becomes, base] of [
    ["ws://host", "ws://host/?herald=1"],
    ["wss://host/ws?", "wss://host/ws?herald=1"],
    ["ws://host/ws?a=%26&b#top", "ws://host/ws?a=%26&b&herald=1"],
    [new URL("ws://host/?a"), "ws://host/?a&herald=1"],
    ["https://host/ws", "wss://host/ws?herald=1"],
    ["/ws?a", "wss://site/ws?a&herald=1", "https://site/page?b#c"],
    [new URL("ws", "http://site/a/"), "ws://site/a/ws?herald=1"],
  ]) {
    start();
    const p = page(base);
    const ws = connect(url);
    assert.equal((await socket(1)).url, becomes);
    ws.close();
    p.leave();
  }
});

test("a URL of its own for each try", async () => {
  start();
  const urls = ["ws://host/?token=1", new Error("no token"), "ws://host/?token=3"];
  const ws = connect(async () => {
    const next = urls.shift();
    if (next instanceof Error) throw next;
    return next;
  });
  (await socket(1)).open().end(4410, "expired");
  const s = await socket(2);
  assert.equal(s.url, "ws://host/?token=3&herald=1");
  assert.deepEqual(ws.told(), ["open", "disconnect", "error", "disconnect"]);
});

test("a function that throws at once is told when somebody can listen", async () => {
  start();
  const ws = connect(() => {
    throw new Error("no token");
  });
  await settle();
  assert.deepEqual(ws.told(), ["error", "disconnect"]);
});

test("pauses double up to a cap, and a message resets them, not a welcome", async () => {
  start();
  const ws = connect();
  let n = 0;
  const waits = async (times, ...messages) => {
    const all = [];
    for (let i = 0; i < times; i++) {
      const s = (await socket(++n)).open(...messages);
      ws.events = [];
      s.end();
      all.push(ws.events[0].wait);
    }
    return all;
  };
  assert.deepEqual(await waits(9, welcome()), [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
  assert.deepEqual(await waits(2, welcome(), "p 0.a.2\n"), [500, 500]);
  // With each resume a node sends these, also one that then fails.
  assert.deepEqual(await waits(3, welcome("c.2", "0.a.2", true), "g {}\n", "p 0.a.2 incomplete\n"), [1000, 2000, 4000]);
  assert.deepEqual(await waits(2, welcome("c.2", "0.a.2", true), "p 0.a.2 complete\n"), [8000, 16000]);
  assert.deepEqual(await waits(1, welcome("c.2", "0.a.2", true), "p 0.a.2 complete\n", "m 0.a.3\nx"), [500]);
  assert.deepEqual(await waits(2, "bare"), [500, 500]);
});

test("full jitter", async () => {
  for (const [random, wait] of [[0, 0], [0.5, 250], [0.17743269, 89]]) {
    start(() => random);
    const ws = connect();
    (await socket(1)).end();
    assert.equal(ws.events[0].wait, wait);
  }
});

test("close codes", async () => {
  for (const [code, wait, url] of [
    [1006, 500], [1012, 500], [4408, 500], [1013, 8000], [1008, 8000], [1009, 8000],
    [4401, 500, () => "ws://host/"], [4410, 500, () => "ws://host/"], [4401, 8000], [4410, 8000], [4503, 8000],
  ]) {
    start();
    const ws = connect(url);
    (await socket(1)).open().end(code, "because");
    const e = ws.events.at(-1);
    assert.deepEqual([e.type, e.code, e.reason, e.wait], ["disconnect", code, "because", wait]);
    assert.equal(ws.readyState, ws.CONNECTING);
  }
  start();
  const ws = connect();
  (await socket(1)).open().end(4409, "replaced");
  assert.deepEqual(ws.told(), ["open", "close"]);
  await pass(1e6);
  assert.equal(sockets().length, 1);
  assert.equal(running(), 0);
});

test("a plain node gets nothing but what is the application's", async () => {
  start();
  const p = page();
  const ws = connect();
  const s = (await socket(1)).open();
  ws.send("first");
  ws.send("@bob"); // it is not known yet what that means
  ws.send("last");
  assert.deepEqual(s.sent, ["first"]);
  s.say("bare");
  assert.deepEqual(s.sent, ["first", "@bob", "last"]);
  p.tell("online");
  ws.ack();
  await pass(100_000);
  assert.deepEqual(s.sent, ["first", "@bob", "last"]);
  assert.deepEqual([ws.position, ws.told()], ["", ["open", "message bare"]]);
  p.leave();
});

test("a plain node that says nothing", async () => {
  start();
  const ws = connect();
  (await socket(1)).open("bare").end();
  const s = (await socket(2)).open();
  ws.told();
  await pass(2000);
  assert.deepEqual(ws.told(), ["gap"]);
  s.say("bare");
  assert.deepEqual(ws.told(), ["message bare"]); // and the gap is told once
});

test("a plain node that says nothing, on its first connection", async () => {
  start();
  const ws = connect();
  let live = 0;
  ws.onlive = () => live++;
  const s = (await socket(1)).open();
  await pass(1999);
  assert.equal(live, 0);
  await pass(1);
  s.say("bare");
  assert.deepEqual([live, ws.told()], [1, ["open", "message bare"]]);
  start();
  const other = connect();
  (await socket(1)).open().end(); // it may have missed something since
  (await socket(2)).open("bare");
  assert.deepEqual(other.told(), ["open", "disconnect", "open", "gap", "message bare"]);
});

test("a welcome that is late", async () => {
  start();
  const ws = connect();
  let live = 0;
  (await socket(1)).open(welcome()).end();
  const s = (await socket(2)).open();
  ws.told();
  ws.onlive = () => live++;
  await pass(2000);
  assert.deepEqual([live, ws.told()], [1, ["gap"]]);
  s.say(welcome("c.2", "0.a.1", true));
  s.say("m 0.a.2\nmissed");
  s.say("p 0.a.2 complete\n");
  assert.deepEqual([live, ws.told()], [1, ["welcome", "message missed"]]);
});

test("a gap whose times cannot be read is just a gap", async () => {
  for (const [json, since] of [
    ['{"since":"soon","until":7}'], ["{}"], ['{"since":null}'], ["7"], ["null"], ["[]"], ["{"], [""],
    ['{"since":"2026-11-27T10:00:00Z","until":"soon"}', Date.UTC(2026, 10, 27, 10)],
  ]) {
    start();
    const ws = connect();
    (await socket(1)).open(welcome(), `g ${json}\n`);
    const e = ws.events.at(-1);
    assert.deepEqual([e.type, e.since && +e.since, e.until], ["gap", since, undefined], json);
  }
});

test("when all is live", async () => {
  start();
  const ws = connect("ws://host/", { position: "0.a.1,2.a.1 c.1" });
  const told = [];
  ws.onlive = () => told.push(...ws.told(), "live");
  const first = (await socket(1)).open(welcome("c.2", "0.a.1,2.a.1", true), "m 2.a.2\nmissed", "p 2.a.2 complete\n", "p 2.a.3\n", "p 2.a.3 complete\n", "p 1.a.1 complete\n");
  assert.deepEqual(told, []);
  first.say("p 0.a.7 incomplete\n");
  assert.deepEqual(told.splice(0), ["open", "welcome", "message missed", "gap", "live"]);
  first.say("p 0.a.8 complete\n");
  first.end();
  (await socket(2)).open(welcome("c.3", "0.a.8,2.a.3")).end();
  assert.deepEqual(told.splice(0), ["disconnect", "open", "welcome", "gap", "live"]);
  (await socket(3)).open("of a plain node", "m 0.a.1 complete\n");
  assert.deepEqual(told, ["disconnect", "open", "gap", "live"]);
});

test("acknowledgements: of what the application has processed, once a second", async () => {
  start();
  const ws = connect("ws://host/", { ack: false });
  const s = (await socket(1)).open(welcome(), "m 0.a.2\none", "m 0.a.3\ntwo", "p 0.a.9\n");
  await pass(5000);
  assert.deepEqual([s.sent, ws.position], [[], "0.a.1 c.1"]);
  const [one, two] = ws.events.filter((e) => e.type == "message");
  ws.ack(one);
  ws.ack(two);
  assert.equal(ws.position, "0.a.3 c.1");
  assert.deepEqual(s.sent, ["@ 0.a.2"]); // a service may wait for it
  await pass(1000);
  assert.deepEqual(s.sent, ["@ 0.a.2", "@ 0.a.3"]);
  ws.ack();
  assert.equal(ws.position, "0.a.9 c.1");
  s.say("p 0.a.10\n"); // nothing waits to be processed
  assert.equal(ws.position, "0.a.10 c.1");
  s.end();
  const next = (await socket(2)).open(welcome("c.2", "0.a.10", true));
  assert.deepEqual(next.sent, ["@ 0.a.10"]); // what the first socket could not tell
});

test("acknowledgements out of order move nothing back", async () => {
  start();
  const ws = connect("ws://host/", { ack: false });
  const s = (await socket(1)).open(welcome(), "m 0.a.2\none", "m 0.a.3\ntwo", "m 0.a.4\nthree");
  const [one, two, three] = ws.events.filter((e) => e.type == "message");
  ws.ack(two);
  ws.ack(one);
  await pass(2000);
  assert.deepEqual([ws.position, s.sent], ["0.a.3 c.1", ["@ 0.a.3"]]);
  s.end();
  (await socket(2)).open(welcome("c.2", "0.b.7", false), "m 0.b.8\nfour");
  ws.ack(ws.events.at(-1));
  ws.ack(three); // offsets of two epochs cannot be compared
  assert.equal(ws.position, "0.b.8 c.2,c.1");
  ws.ack(new Event("message")); // of another Herald
  assert.equal(ws.position, "0.b.8 c.2,c.1");
});

test("a mark is not processed before a message that came earlier, even one that is not kept", async () => {
  start();
  const ws = connect("ws://host/", { ack: false });
  const s = (await socket(1)).open(welcome(), "m\nnot kept", "p 0.a.9\n");
  assert.equal(ws.position, "0.a.1 c.1");
  ws.ack(ws.events.at(-1));
  s.say("p 0.a.10\n");
  assert.equal(ws.position, "0.a.10 c.1");
});

test("acknowledgements of what came before a plain node bring no positions back", async () => {
  start();
  const ws = connect("ws://host/", { ack: false });
  (await socket(1)).open(welcome(), "m 0.a.2\none").end();
  const one = ws.events.find((e) => e.type == "message");
  (await socket(2)).open("bare");
  ws.ack(one);
  assert.equal(ws.position, " c.1");
});

test("acknowledgements by themselves, and a last one", async () => {
  start();
  const ws = connect();
  const s = (await socket(1)).open(welcome(), "m\nnot kept");
  await pass(2000);
  assert.deepEqual(s.sent, []);
  for (let n = 2; n < 100; n++) s.say(`m 0.a.${n}\nx`);
  await pass(5000); // and nothing twice
  s.say("m 0.a.100\nx");
  ws.close();
  assert.deepEqual(s.sent, ["@ 0.a.2", "@ 0.a.99", "@ 0.a.100"]);
});

test("close in a handler of a message acknowledges it", async () => {
  for (const [ack, sent, position] of [[true, ["@ 0.a.2"], "0.a.2 c.1"], [false, [], "0.a.1 c.1"]]) {
    start();
    const ws = connect("ws://host/", { ack });
    ws.onmessage = () => ws.close();
    const s = (await socket(1)).open(welcome(), "m 0.a.2\nx", "m 0.a.3\ntoo late");
    assert.deepEqual([s.sent, ws.position], [sent, position]);
    s.end();
    assert.equal(running(), 0);
  }
});

test("on a server it does nothing", async () => {
  start();
  const ws = new Herald("ws://host/", { WebSocket: undefined });
  assert.deepEqual([ws.readyState, running()], [0, 0]);
  ws.check();
  ws.close();
  assert.equal(ws.readyState, 3);
});

test("a URL that comes when it is closed", async () => {
  start();
  let give;
  const ws = connect(() => new Promise((done) => (give = done)));
  ws.close();
  assert.deepEqual(ws.told(), ["close"]);
  give("ws://host/");
  await pass(1e6);
  assert.deepEqual([sockets().length, running()], [0, 0]);
});
