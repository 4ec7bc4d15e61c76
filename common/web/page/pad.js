// The pad: up to four prompts in its corners, blended by the place on it.

import { element, paced } from "./parameters.js";

const STEP = 0.05, FINE = 0.01, SETTLE_MS = 400;
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Pad {
  #at = [0, 0];
  #rows = [[], []];
  #moved = -SETTLE_MS;
  #send;

  // set: called with a parameter's name and its value. find: an element by its id.
  constructor(find, set) {
    this.find = find;
    const told = [null, null];
    this.#send = paced((...at) =>
      ["position", "position_y"].forEach((name, axis) => {
        if (told[axis] !== at[axis]) set(name, (told[axis] = at[axis]));
      }),
    );
    this.forget = () => told.fill(null);
    const surface = find("pad-surface");
    surface.addEventListener("pointerdown", (event) => {
      surface.setPointerCapture(event.pointerId);
      this.#point(event);
    });
    surface.addEventListener("pointermove", (event) => {
      if (surface.hasPointerCapture(event.pointerId)) this.#point(event);
    });
    surface.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      const step = event.shiftKey ? FINE : STEP, [x, y] = this.#at;
      if (KEYS[event.key]) this.#move(x + step * KEYS[event.key][0], y + step * KEYS[event.key][1]);
      else if (event.key === "Home") this.#move(0, y);
      else if (event.key === "End") this.#move(1, y);
      else if (event.key === "PageUp") this.#move(x, 0);
      else if (event.key === "PageDown") this.#move(x, 1);
      else return;
      event.preventDefault();
    });
    const across = find("pad-across"), down = find("pad-down");
    for (const slider of [across, down]) {
      slider.addEventListener("input", () => this.#move(Number(across.value), Number(down.value)));
    }
  }

  // Take the values of a session; stops and below: the texts of the upper and lower corners.
  take(values, stops, below) {
    this.find("square").hidden = below.length === 0;
    if (below.length === 0) return;
    if (JSON.stringify(this.#rows) !== JSON.stringify([stops, below])) {
      this.#rows = [stops, below];
      const row = (texts, name) => texts.map((text, at) =>
        element("span", { className: `corner ${name} ${texts.length < 2 ? "alone" : at ? "right" : "left"}`, textContent: text }));
      this.find("pad-corners").replaceChildren(...row(stops, "upper"), ...row(below, "lower"));
    }
    if (performance.now() - this.#moved < SETTLE_MS) return; // it is being moved here
    this.#at = [values.position, values.position_y];
    this.forget();
    this.#draw();
  }

  #point(event) {
    const box = this.find("pad-surface").getBoundingClientRect();
    this.#move((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  }

  #move(...at) {
    this.#at = at.map((each) => Number(Math.min(1, Math.max(0, each)).toFixed(3)));
    this.#moved = performance.now();
    this.#draw();
    this.#send(...this.#at);
  }

  #draw() {
    const [x, y] = this.#at, surface = this.find("pad-surface"), dot = this.find("pad-dot");
    dot.style.left = `${100 * x}%`;
    dot.style.top = `${100 * y}%`;
    this.find("pad-across").value = x;
    this.find("pad-down").value = y;
    const parts = this.#rows.flatMap((row, at) =>
      row.map((text, column) => {
        const share = (row.length < 2 ? 1 : column ? x : 1 - x) * (at ? y : 1 - y);
        return [Math.round(100 * share), text];
      }),
    );
    const said = parts.filter(([share]) => share > 0).map(([share, text]) => `${share} % ${text}`).join(", ");
    surface.setAttribute("aria-valuenow", String(Math.round(100 * x)));
    surface.setAttribute("aria-valuetext", said);
    this.find("pad-across").setAttribute("aria-valuetext", `${Math.round(100 * x)} % to the right: ${said}`);
    this.find("pad-down").setAttribute("aria-valuetext", `${Math.round(100 * y)} % down: ${said}`);
    this.find("pad-shares").textContent = said;
  }
}
