// The parts of the page. Whatever comes from others is put in with textContent only.

export const $ = (id) => document.getElementById(id);

// make returns an element with a class, and children or text in it.
export function make(tag, cls, ...inside) {
  const e = document.createElement(tag);
  if (cls) e.className = cls;
  e.append(...inside.filter((x) => x !== null)); // strings become text nodes
  return e;
}

// bdi keeps a name that runs from right to left from turning what stands around it.
export const bdi = (text) => make("bdi", "", text);

export function face(user) {
  let hash = 0;
  for (const ch of user) hash = (hash * 31 + ch.codePointAt(0)) % 360;
  const letter = user.match(/[\p{L}\p{N}\p{P}\p{S}]/u)?.[0] ?? "";
  const e = make("span", "face", letter.toUpperCase());
  e.setAttribute("aria-hidden", "true");
  e.style.setProperty("--hue", hash);
  return e;
}

// button returns a button of a list that keepFocus redraws.
export function button(cls, key, press, ...inside) {
  const e = make("button", cls, ...inside);
  e.type = "button";
  e.dataset.key = key;
  e.onclick = press;
  return e;
}

// keepFocus redraws a list and gives the focus back to the button that had it.
export function keepFocus(list, items) {
  const key = list.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  list.replaceChildren(...items);
  if (key !== undefined) [...list.querySelectorAll("button")].find((b) => b.dataset.key === key)?.focus();
}
