// What goes over the wire, as PROTOCOL.md says: positions, frames of the server, and the
// query of a URL.

export const ID = /^(?!-$)[\w.~-]{1,200}$/;
const POINT = /^(\d|1[0-5])\.([1-9a-f][\da-f]{0,15})\.(0|[1-9]\d{0,19})$/;
const LAST = "18446744073709551615";

// less compares offsets, which have more bits than a number: as text.
export const less = (a, b) => a.length < b.length || (a.length == b.length && a < b);

// point reads a position: [partition, epoch, offset].
const point = (text) => {
  const m = POINT.exec(text);
  return m && !less(LAST, m[3]) && m.slice(1);
};

// points reads positions. It returns false if they are malformed.
export const points = (text) => {
  const all = text ? text.split(",").map(point) : [];
  return all.every((p, i) => p && (!i || +all[i - 1][0] < p[0])) && all;
};

// address adds to the query of a URL, which is a string or a URL. Older browsers'
// WebSockets refuse relative URLs and those of http, so it makes them absolute, of ws.
export const address = (url, more) => {
  try {
    const u = new URL(url.href ?? url.trim(), globalThis.document?.baseURI ?? globalThis.location?.href);
    u.protocol = u.protocol.replace("http", "ws");
    u.hash = "";
    u.search += (u.search && "&") + more;
    if (/^wss?:$/.test(u.protocol)) return u.href;
  } catch {}
  throw new SyntaxError("herald: not the URL of a WebSocket");
};

const json = (text) => {
  try {
    return JSON.parse(text) || {};
  } catch {
    return {};
  }
};

// parse reads a frame of the server's. It returns nothing if it is malformed, and
// an object without a kind if it is to be ignored.
export const parse = (data) => {
  const binary = typeof data != "string";
  const bytes = binary && new Uint8Array(data);
  const end = binary ? bytes.indexOf(10) : data.indexOf("\n");
  const whole = end >= 0;
  const line = (binary ? new TextDecoder().decode(bytes.subarray(0, whole ? end : undefined)) : whole ? data.slice(0, end) : data);
  const [kind, at, word] = line.split(" ");
  const rest = line.slice(2);
  const f = { kind };
  if (!line) return;
  if (kind == "m") {
    f.at = at && at != "-" ? point(at) : [];
    f.id = word;
    f.data = data.slice(end + 1);
    if (!f.at || (word && !ID.test(word)) || (at == "" && rest)) return;
  } else if (kind == "p") {
    f.at = point(at);
    f.missing = word == "incomplete";
    f.end = f.missing || word == "complete";
    if (!f.at) return;
  } else if (kind == "w") {
    const w = json(rest);
    f.at = w.herald === 1 && typeof w.conn + typeof w.positions == "stringstring" && ID.test(w.conn) && points(w.positions);
    f.welcome = w;
    if (!f.at) return;
  } else if (kind == "g") {
    const g = json(rest);
    const time = (t) => (typeof t != "string" || isNaN(Date.parse(t)) ? undefined : new Date(t));
    f.missing = true;
    f.gap = { since: time(g.since), until: time(g.until) };
  } else if (kind == "!") {
    f.n = at;
    if (!(at >= 0) || String(+at) != at || !Number.isSafeInteger(+at)) return;
  } else {
    return {};
  }
  return whole ? f : undefined;
};
