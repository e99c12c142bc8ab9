// The hook of README.md.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Herald, Socket, settle, socket, start, welcome } from "./fake.js";

// component returns what renders a component that consists of the hook, as React does.
function component() {
  const [code] = /export function useHerald[^]*?\n}\n/.exec(readFileSync(new URL("../README.md", import.meta.url), "utf8"));
  class Fake extends Herald {
    constructor(url) {
      super(url, { WebSocket: Socket });
    }
  }
  const cells = [];
  let at, effects;
  const cell = (first) => (cells[at++] ??= first);
  const useRef = () => cell({ current: undefined });
  const useState = (value) => {
    const c = cell({ value });
    return [c.value, (value) => (c.value = value)];
  };
  const useEffect = (run, deps) => effects.push([cell({}), run, deps]);
  const useHerald = new Function("Herald", "useRef", "useState", "useEffect", "return " + code.replace("export ", ""))(Fake, useRef, useState, useEffect);
  const render = (url, twice) => {
    [at, effects] = [0, []];
    const result = useHerald(url, () => {});
    const due = effects.filter(([c, , deps]) => !c.deps || !deps || deps.some((d, i) => d !== c.deps[i]));
    // All old effects are cleaned up before the first new one runs. StrictMode does that once more.
    for (let n = twice ? 2 : 1; n > 0; n--) {
      for (const [c] of due) c.clean?.();
      for (const [c, run, deps] of due) Object.assign(c, { clean: run(), deps });
    }
    return result;
  };
  return { render, state: (url) => render(url).state };
}

test("it tells the state of its present connection", async () => {
  start();
  const { render, state } = component();
  render("ws://host/a");
  assert.equal(state("ws://host/a"), "connecting");
  const first = (await socket(1)).open();
  assert.equal(state("ws://host/a"), "connecting"); // it may be refused
  first.say(welcome());
  assert.equal(state("ws://host/a"), "connected");
  render("ws://host/b");
  assert.equal(state("ws://host/b"), "connecting");
  const second = (await socket(2)).open(welcome());
  first.end(1000); // the answer to the close of the old one comes late
  assert.equal(state("ws://host/b"), "connected");
  second.end(4409);
  assert.equal(state("ws://host/b"), "closed");
});

test("it works in StrictMode, which mounts twice", async () => {
  start();
  const { render, state } = component();
  render("ws://host/", true);
  await settle();
  assert.equal(state("ws://host/"), "connecting");
  (await socket(1)).open(welcome());
  assert.equal(state("ws://host/"), "connected");
});
