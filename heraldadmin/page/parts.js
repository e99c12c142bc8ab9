// The parts of the page. Whatever comes from others is put in as text.

export const $ = (id) => document.getElementById(id);

// make returns an element with a class, and children or text in it.
export function make(tag, cls, ...inside) {
  const e = document.createElement(tag);
  if (cls) e.className = cls;
  e.append(...inside.filter((x) => x !== null && x !== "")); // strings become text nodes
  return e;
}

// What cannot be seen, or turns the text around it: controls, marks of direction, joiners.
const unseen = /[\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Zl}\p{Zp}\u00ad\u034f\u115f\u1160\u3164\uffa0\ufffd]/u;

// name shows what others have named, in an element that keeps its direction to itself.
// Characters that cannot be seen are shown by their numbers.
export function name(text) {
  const e = make("bdi");
  for (const part of text.split(/([\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Zl}\p{Zp}\u00ad\u034f\u115f\u1160\u3164\uffa0\ufffd])/u)) {
    e.append(unseen.test(part) ? make("span", "hidden-char", "U+" + part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")) : part);
  }
  return e;
}

// facts returns a list of terms and what they are; those that are null are left out.
export function facts(...pairs) {
  const list = make("dl");
  for (const [term, what, cls] of pairs) {
    if (what !== null && what !== undefined) list.append(make("dt", "", term), make("dd", cls ?? "", what));
  }
  return list;
}

export function button(text, label, press) {
  const e = make("button", "", text);
  e.type = "button";
  e.setAttribute("aria-label", label);
  e.dataset.key = label;
  e.onclick = press;
  return e;
}

// redraw puts items into a list, and gives the focus back to the button that had it.
export function redraw(list, items) {
  const key = list.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  list.replaceChildren(...items);
  if (key !== undefined) [...list.querySelectorAll("button")].find((b) => b.dataset.key === key)?.focus();
}

// time says how long something takes or has taken, in milliseconds.
export function time(ms) {
  if (ms < 10) return ms.toFixed(1) + " ms";
  if (ms < 1000) return Math.round(ms) + " ms";
  if (ms < 120_000) return (ms / 1000).toFixed(ms < 10_000 ? 1 : 0) + " s";
  if (ms < 7_200_000) return Math.round(ms / 60_000) + " min";
  return Math.round(ms / 3_600_000) + " h";
}

export const ago = (ms) => (ms < 0 ? "never" : time(ms) + " ago");

export function size(n) {
  return n < 10_000 ? n + " bytes" : n < 10_000_000 ? Math.round(n / 1000) + " KB" : Math.round(n / 1e6) + " MB";
}

export const count = (n, what) => n + " " + what + (n === 1 ? "" : "s");
