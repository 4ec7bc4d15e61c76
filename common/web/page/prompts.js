// The prompt, the gallery, and the way between prompts of a bank.

import { element } from "./parameters.js";

const MOST_STOPS = 9, SEND_MS = 33;

export class Prompts {
  #chosen = null;
  #shown = "";
  #listed = "";

  // set: called with a parameter's name and its value. find: an element by its id.
  constructor(find, set) {
    this.find = find;
    this.set = set;
    const field = find("prompt"), pad = find("pad-slider");
    find("prompt-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const text = field.value.trim().replace(/\s+/g, " ");
      if (text) set("prompt", text);
    });
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        find("prompt-form").requestSubmit();
        field.blur();
      } else if (event.key === "Escape") {
        field.value = this.#shown;
        field.blur();
      }
    });
    let sent = 0, timer = 0;
    pad.addEventListener("input", () => {
      clearTimeout(timer);
      const send = () => {
        sent = performance.now();
        set("position", Number(pad.value));
      };
      if (performance.now() - sent < SEND_MS) timer = setTimeout(send, SEND_MS);
      else send();
    });
    find("bank").addEventListener("click", () => this.#toggle());
  }

  // Take the values of a session; stops: the texts of the prompt's bank.
  take(values, stops) {
    const field = this.find("prompt"), pad = this.find("pad-slider");
    const written = values.position ? `${values.prompt} @ ${values.position}` : values.prompt;
    if (field !== document.activeElement) field.value = written;
    this.#shown = written;
    this.find("pad").hidden = stops.length < 2;
    pad.max = Math.max(1, stops.length - 1);
    if (pad !== document.activeElement) pad.value = values.position;
    const from = Math.min(Math.floor(values.position), stops.length - 1);
    const share = Math.round(100 * (values.position - from));
    pad.setAttribute("aria-valuetext", share ? `${share} % from ${stops[from]} to ${stops[from + 1]}` : stops[from]);
    this.find("pad-names").textContent = stops.join(" \u2192 ");
    this.find("pad-stops").replaceChildren(
      ...stops.map((text, at) => element("option", { value: at, label: text })),
    );
  }

  // Take the list of prompts and the place in it.
  list(prompts, index) {
    const key = JSON.stringify([prompts, index, this.#chosen]);
    if (key === this.#listed) return;
    this.#listed = key;
    const chosen = this.#chosen;
    const focused = document.activeElement?.dataset?.prompt;
    const buttons = prompts.map((text, at) => {
      const button = element("button", { type: "button", textContent: text });
      button.dataset.prompt = text;
      const turn = chosen?.indexOf(text) ?? -1;
      button.setAttribute("aria-pressed", String(chosen ? turn >= 0 : at === index));
      if (turn >= 0) button.textContent = `${turn + 1}. ${text}`;
      button.addEventListener("click", () => this.#click(text, prompts, index));
      return button;
    });
    this.find("gallery").replaceChildren(...buttons);
    buttons.find((button) => button.dataset.prompt === focused)?.focus();
  }

  #click(text, prompts, index) {
    if (!this.#chosen) {
      this.set("prompt", text);
      return;
    }
    if (this.#chosen.includes(text)) this.#chosen = this.#chosen.filter((each) => each !== text);
    else if (this.#chosen.length < MOST_STOPS && !text.includes(">>")) this.#chosen.push(text);
    this.#name();
    this.list(prompts, index);
  }

  #toggle() {
    if (this.#chosen && this.#chosen.length > 1) this.set("prompt", this.#chosen.join(" >> "));
    this.#chosen = this.#chosen ? null : [];
    this.#listed = "";
    this.#name();
  }

  #name() {
    const button = this.find("bank"), count = this.#chosen?.length ?? 0;
    button.setAttribute("aria-pressed", String(this.#chosen !== null));
    button.textContent = !this.#chosen
      ? "Travel between prompts"
      : count > 1
        ? `Travel between these ${count}`
        : "Choose two prompts or more above";
  }
}
