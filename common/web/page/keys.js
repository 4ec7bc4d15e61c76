// Keys as in the window; those of the view are the page's own.

import { element } from "./parameters.js";

// local: by the name of an event, what the page does itself. send: takes any other message.
export function listen(rows, local, send, enabled) {
  const keys = new Map();
  for (const row of rows) {
    for (const [key, message] of Object.entries(row.changes)) {
      if (key !== "\u001b") keys.set(key, message); // Escape is the browser's
    }
  }
  return (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || !enabled()) return;
    if (document.querySelector("dialog[open]")) return;
    const target = event.target, name = target.tagName;
    if (name === "TEXTAREA" || name === "SELECT") return;
    if (name === "INPUT" && !["range", "checkbox", "radio"].includes(target.type)) return;
    if (event.key === " " && ["BUTTON", "INPUT", "SUMMARY", "A"].includes(name)) return;
    const message = keys.get(event.key.length === 1 ? event.key.toLowerCase() : event.key);
    if (!message) return;
    event.preventDefault();
    if (message.do === "event" && local[message.name]) local[message.name]();
    else send(message);
  };
}

export function describe(rows, body) {
  body.replaceChildren(
    ...rows.map((row) => {
      const line = element("tr", {}), key = element("td", {});
      key.append(element("kbd", { textContent: row.label.replace(/ \/ esc$/, "") }));
      line.append(key, element("td", { textContent: row.help }));
      return line;
    }),
  );
}
