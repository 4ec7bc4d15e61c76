// The prompt, the gallery, and the way between prompts of a bank.

import { element, paced } from "./parameters.js";

// What prompts can be chosen for: by the id of its button.
const CHOICES = {
  bank: { title: "Travel between prompts", verb: "Travel between", most: 9, join: (texts) => texts.join(" >> ") },
  corners: {
    title: "Blend prompts on a pad",
    verb: "Blend on a pad",
    most: 4,
    join: ([a, b, ...below]) => `${a} >> ${b}` + (below.length ? ` // ${below.join(" >> ")}` : ""),
  },
};

export class Prompts {
  #chosen = null;
  #kind = "bank";
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
    const send = paced((value) => set("position", value));
    pad.addEventListener("input", () => send(Number(pad.value)));
    for (const kind of Object.keys(CHOICES)) find(kind).addEventListener("click", () => this.#toggle(kind));
  }

  // Take the values of a session; stops: the texts of the prompt's bank, below: those under them.
  take(values, stops, below) {
    const field = this.find("prompt"), pad = this.find("pad-slider");
    const places = values.position_y ? `${values.position} ${values.position_y}` : values.position;
    const written = places ? `${values.prompt} @ ${places}` : values.prompt;
    if (field !== document.activeElement) field.value = written;
    this.#shown = written;
    this.find("pad").hidden = stops.length < 2 || below.length > 0;
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
    else if (this.#chosen.length < CHOICES[this.#kind].most && !text.includes(">>")) this.#chosen.push(text);
    this.#name();
    this.list(prompts, index);
  }

  #toggle(kind) {
    const chosen = this.#chosen, ends = chosen && kind === this.#kind;
    if (ends && chosen.length > 1) this.set("prompt", CHOICES[kind].join(chosen));
    this.#chosen = ends ? null : (chosen ?? []).slice(0, CHOICES[kind].most);
    this.#kind = kind;
    this.#listed = "";
    this.#name();
  }

  #name() {
    for (const [kind, { title, verb }] of Object.entries(CHOICES)) {
      const button = this.find(kind), chosen = kind === this.#kind ? this.#chosen : null;
      button.setAttribute("aria-pressed", String(chosen !== null));
      if (!chosen) button.textContent = title;
      else button.textContent = chosen.length > 1 ? `${verb} these ${chosen.length}` : "Choose two prompts or more above";
    }
  }
}
