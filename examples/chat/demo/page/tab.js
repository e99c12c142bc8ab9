// What this tab is, and what it knows.

export const tab = {
  // The front door knows it by that, to cut its network. It has to be made
  // without TLS, too, and then a browser has no crypto.randomUUID.
  id: newID(),
  me: "", // its user
  node: "", // where it is, while it is connected
  conn: "", // its connection
  to: "", // whom the next message is for; "" is everybody
  cut: false, // its network is
};

// newID returns a text that nobody else has.
export function newID() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");
}
