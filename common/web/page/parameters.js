// Every live parameter as a slider, a switch, a choice or a field, as the table says.

const WIDEST_SLIDER = 100, DECIMALS = 3, SEND_MS = 33, SETTLE_MS = 400;
const PLACES = ["position", "position_y"];

export class Parameters {
  #rows = new Map();

  // set: called with name and value.
  constructor(place, set) {
    this.place = place;
    this.set = set;
  }

  build(rows) {
    this.#rows.clear();
    // the prompt and its position have their own place on the page
    const drawn = rows.filter((row) => row.kind !== "text" && !PLACES.includes(row.name));
    drawn.sort((a, b) => Boolean(a.unusable) - Boolean(b.unusable));
    this.place.replaceChildren(...drawn.map((row) => this.#draw(row)));
  }

  // Take values, also those that others have set; what is being moved here is left alone.
  take(values) {
    for (const [name, row] of this.#rows) {
      if (performance.now() - row.moved > SETTLE_MS) row.show(values[name]);
    }
  }

  #draw(row) {
    const box = element("div", { className: "parameter" });
    const id = `parameter-${row.name}`, title = row.name.replaceAll("_", " ");
    const head = element("div", { className: "head" });
    const label = element("label", { htmlFor: id, textContent: title });
    const reset = element("button", { type: "button", className: "reset", textContent: "\u21ba" });
    reset.setAttribute("aria-label", `${title} back to its default`);
    reset.title = "back to its default";
    const said = element("p", { id: `${id}-help`, textContent: row.unusable || row.help });
    const [field, extra] = fieldOf(row, id);
    field.setAttribute("aria-describedby", said.id);
    field.dataset.parameter = row.name;
    const state = { moved: -SETTLE_MS, show: (value) => show(row, field, extra, value) };
    const send = paced((value) => this.set(row.name, value));
    const change = () => {
      state.moved = performance.now();
      const value = valueOf(row, field);
      if (extra) extra.value = written(row, value);
      send(value);
    };
    field.addEventListener(field.type === "number" ? "change" : "input", change);
    reset.addEventListener("click", () => {
      if (row.default !== null) this.set(row.name, row.default);
    });
    if (row.unusable) field.disabled = reset.disabled = true;
    const beside = field.type === "checkbox" ? [field] : [];
    head.append(label, ...(extra ? [extra] : []), ...beside, reset);
    box.append(head, ...(beside.length ? [] : [field]), said);
    this.#rows.set(row.name, state);
    return box;
  }
}

function fieldOf(row, id) {
  if (row.kind === "switch") {
    const field = element("input", { id, type: "checkbox" });
    field.setAttribute("role", "switch");
    return [field, null];
  }
  if (row.kind === "choice") {
    const field = element("select", { id });
    field.append(...row.choices.map((each) => element("option", { value: each, textContent: each })));
    return [field, null];
  }
  const bounded = row.minimum !== null && row.maximum !== null;
  const slides = bounded && row.maximum - row.minimum <= WIDEST_SLIDER;
  const field = element("input", { id, type: slides ? "range" : "number" });
  if (row.minimum !== null) field.min = row.minimum;
  if (row.maximum !== null) field.max = row.maximum;
  const whole = row.kind === "integer";
  field.step = whole ? 1 : "any"; // a step would round what others have set
  const output = element("output", {});
  output.htmlFor = id;
  return [field, slides ? output : null];
}

function valueOf(row, field) {
  if (row.kind === "switch") return field.checked;
  return row.kind === "choice" ? field.value : Number(Number(field.value).toFixed(DECIMALS));
}

function show(row, field, extra, value) {
  if (value === null || value === undefined) return;
  if (row.kind === "switch") field.checked = value;
  else field.value = value;
  if (extra) extra.value = written(row, value);
}

function written(row, value) {
  const text = row.kind === "integer" ? String(value) : Number(value).toFixed(2);
  return row.unit ? `${text} ${row.unit}` : text;
}

// Return what calls `send` with its latest values, but not more often than a session looks.
export function paced(send) {
  let sent = -SEND_MS, timer = 0;
  return (...values) => {
    clearTimeout(timer);
    const go = () => {
      sent = performance.now();
      send(...values);
    };
    if (performance.now() - sent < SEND_MS) timer = setTimeout(go, SEND_MS);
    else go();
  };
}

export function element(name, values) {
  return Object.assign(document.createElement(name), values);
}
