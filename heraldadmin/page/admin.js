import { $, ago, button, count, facts, make, name, redraw, size, time } from "./parts.js";

const every = 5000; // milliseconds between two looks at the nodes

// ask sends a question to the node, and returns its answer or throws an Error.
async function ask(path, body) {
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, body === undefined ? {} : post).catch(() => {
    throw new Error("The server does not answer.");
  });
  const text = await response.text();
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new Error(text.trim().slice(0, 200) || "HTTP status " + response.status);
  }
  if (!response.ok) throw new Error(answer.error ?? "HTTP status " + response.status);
  return answer;
}

// Nodes.

let before = new Map(); // the counters of each node, and when they were read

function rate(node, field) {
  const old = before.get(node.id);
  const seconds = old ? (Date.now() - old.at) / 1000 : 0;
  const n = old ? node[field] - old.node[field] : -1;
  return n < 0 || seconds < 0.5 ? null : (n / seconds).toFixed(n / seconds < 10 ? 1 : 0) + " a second";
}

function nodeCard(node, asked) {
  const card = make("li", "card", make("h3", "", name(node.id), node.id === asked ? " (asked)" : ""));
  card.dataset.node = node.id;
  if (node.error !== undefined) {
    card.classList.add("bad-card");
    card.append(make("p", "bad", "No report: ", name(node.error)));
    return card;
  }
  const reasons = node.health ?? [];
  card.append(make("p", reasons.length ? "bad" : "good", reasons.length ? "✗ Not well" : "✓ Well"));
  if (reasons.length) {
    card.classList.add("bad-card");
    card.append(make("ul", "", ...reasons.map((r) => make("li", "", name(r)))));
  }
  card.append(facts(
    ["Connections", `${node.conns} of ${count(node.users, "user")}`],
    ["Sent", rate(node, "sent")],
    ["To clients", rate(node, "delivered")],
    ["Dropped", rate(node, "dropped")],
    ["Connects", rate(node, "accepted")],
    ["Refused", rate(node, "rejected")],
    ["Waiting", node.queued ? `${count(node.queued, "message")}, ${size(node.queuedBytes)}, the oldest ${time(node.oldestQueued)}` : "none"],
    ["Too slow", count(node.tooSlow, "connection") + " closed"],
    ["Gaps", node.openGaps ? "open for " + time(node.openGapFor) : node.gaps ? `${node.gaps}, ${time(node.gapFor)} together` : "none", node.openGaps ? "bad" : ""],
    ["Bus", node.busTrip ? time(node.busTrip) + " there and back" : "not measured yet"],
    ["Registry", node.registryTrip ? time(node.registryTrip) + " a call" : "not measured yet"],
    ["This report", time(node.took)],
  ));
  return card;
}

async function look() {
  try {
    const answer = await ask("nodes");
    const well = answer.nodes.filter((n) => n.error === undefined && !n.health?.length).length;
    redraw($("nodes"), answer.nodes.map((n) => nodeCard(n, answer.asked)));
    const slow = answer.nodes.flatMap((n) => n.slowest ?? []).sort((a, b) => b.state.oldest - a.state.oldest).slice(0, 10);
    redraw($("slow"), slow.map((c) => connCard(c, true)));
    $("slow-none").hidden = slow.length > 0;
    before = new Map(answer.nodes.filter((n) => n.error === undefined).map((node) => [node.id, { node, at: Date.now() }]));
    say(`${well} of ${count(answer.nodes.length, "node")} well, at ${new Date().toLocaleTimeString()}`, well < answer.nodes.length);
  } catch (e) {
    say(e.message, true);
  }
}

function say(text, bad) {
  $("state").textContent = text;
  $("state").classList.toggle("bad", bad);
}

async function watch() {
  for (;;) {
    if (!document.hidden) await look();
    await new Promise((resolve) => setTimeout(resolve, every));
  }
}

// Connections.

function connCard(c, ofAnyone) {
  const s = c.state;
  const card = make("li", "card", make(ofAnyone ? "h3" : "h4", "", name(c.device || c.id), c.platform ? " on " : "", c.platform ? name(c.platform) : ""));
  card.dataset.conn = c.id;
  if (c.doubt) card.append(make("p", "wait", c.doubt));
  card.append(facts(
    ["User", ofAnyone ? name(c.user) : null],
    ["Node", name(c.node)],
    ["Connection", name(c.id)],
    ["From", c.addr ? name(c.addr) : null],
    ["Platform", c.platform ? null : "not set"],
    ["Since", c.since ? new Date(c.since).toLocaleString() : "not known yet"],
    ["Waiting", s ? (s.queued ? `${count(s.queued, "message")}, ${size(s.queuedBytes)}, the oldest ${time(s.oldest)}` : "none") : null, s?.queued ? "wait" : ""],
    ["Stuck", s?.writingFor ? "takes nothing for " + time(s.writingFor) : null, "bad"],
    ["Last written", s ? ago(s.lastWrite) : null],
    ["Last heard", s ? ago(s.lastRead) : null],
    ["Dropped", s ? count(s.dropped, "message") : null, s?.dropped ? "wait" : ""],
    ["Deliveries", s ? (s.unconfirmed ? s.unconfirmed + " without a receipt yet" : "none open") : null],
    ["Groups", c.groups?.length ? make("span", "", ...c.groups.flatMap((g, i) => [i ? ", " : "", name(g)])) : null],
    ["Meta", c.meta ? make("span", "", ...Object.entries(c.meta).flatMap(([k, v], i) => [i ? ", " : "", name(k), ": ", name(v)])) : null],
  ));
  card.append(ofAnyone
    ? button("Find the user", "Find the user of " + c.id, () => { location.hash = "user=" + encodeURIComponent(c.user); })
    : button("Disconnect", "Disconnect " + c.id, () => disconnect({ connection: c.id }, make("span", "", "The connection ", name(c.id), " of ", name(c.user), " will be closed."))));
  return card;
}

let user = ""; // who is shown

async function find(id, quiet) {
  $("find-fault").textContent = "";
  if (id !== user) {
    $("found").hidden = true;
    $("way").replaceChildren();
  }
  user = id;
  try {
    const answer = await ask("user?id=" + encodeURIComponent(id));
    if (user !== id) return;
    const nodes = new Set(answer.conns.map((c) => c.node)).size;
    $("found-title").replaceChildren(name(id), answer.conns.length ? ` has ${count(answer.conns.length, "connection")} on ${count(nodes, "node")}` : " has no connection");
    redraw($("conns"), answer.conns.map((c) => connCard(c, false)));
    $("doubts").replaceChildren(...(answer.doubts ?? []).map((d) => make("li", "", name(d))));
    $("found").hidden = false;
    $("found").dataset.user = id;
    $("disconnect-all").hidden = answer.conns.length === 0;
    if (!quiet) $("found-title").focus();
  } catch (e) {
    if (user === id) $("find-fault").textContent = e.message;
  }
}

async function disconnect(whom, text) {
  $("sure-text").replaceChildren(text);
  $("sure").returnValue = "no";
  $("sure").showModal();
  await new Promise((resolve) => $("sure").addEventListener("close", resolve, { once: true }));
  if ($("sure").returnValue !== "yes") return;
  let fault = "";
  await ask("disconnect", whom).catch((e) => { fault = e.message; });
  await find(user);
  if (fault) $("find-fault").textContent = fault;
}

// The way of a message.

const marks = { passed: ["✓", "good"], doubted: ["!", "wait"], ended: ["✗", "bad"] };

function stepsOf(steps) {
  return make("ol", "steps", ...steps.map((s) => {
    const [mark, cls] = marks[s.kind];
    const e = make("li", s.kind, make("span", cls, mark), name(s.text), make("span", "at", s.at ? time(s.at) : ""));
    return e;
  }));
}

async function follow(platforms) {
  const id = user;
  $("follow-button").disabled = true;
  $("way").replaceChildren("Following…");
  try {
    const way = await ask("follow", { user: id, platforms });
    if (user !== id) return;
    $("way").replaceChildren(stepsOf(way.steps), ...way.conns.map((c) => {
      const e = make("div", "card", make("h4", "", name(c.conn.device || c.conn.id), c.conn.platform ? " on " : "", c.conn.platform ? name(c.conn.platform) : ""), stepsOf(c.steps));
      e.dataset.way = c.conn.id;
      return e;
    }));
    await find(id, true);
  } catch (e) {
    $("way").replaceChildren(make("p", "bad", e.message));
  } finally {
    $("follow-button").disabled = false;
  }
}

$("find").onsubmit = (e) => {
  e.preventDefault();
  const hash = "#user=" + encodeURIComponent($("user").value);
  if (location.hash === hash) find($("user").value);
  else location.hash = hash;
};
$("follow").onsubmit = (e) => {
  e.preventDefault();
  follow($("platforms").value.split(",").map((p) => p.trim()).filter((p) => p !== ""));
};
$("disconnect-all").onclick = () => disconnect({ user }, make("span", "", "All connections of ", name(user), " will be closed."));

function route() {
  const match = /^#user=(.+)$/.exec(location.hash);
  if (!match) return;
  let id;
  try {
    id = decodeURIComponent(match[1]);
  } catch {
    return;
  }
  $("user").value = id; // without line breaks
  find(id);
}
onhashchange = route;
route();
watch();
