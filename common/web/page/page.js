// Puts the page together.

import { Camera } from "./camera.js";
import { describe, listen } from "./keys.js";
import { Pad } from "./pad.js";
import { element, Parameters } from "./parameters.js";
import { Picture, VIEWS } from "./picture.js";
import { Prompts } from "./prompts.js";
import { Socket } from "./socket.js";

const find = (id) => document.getElementById(id);
const socket = new Socket();
const note = (text) => (find("note").textContent = text);
const said = (error) => error && note(error);
const change = (message) => socket.send(message, said) || note("not connected");
const set = (name, value) => change({ do: "set", name, value });
const happen = (name) => change({ do: "event", name });

const parameters = new Parameters(find("parameters"), set);
const prompts = new Prompts(find, set);
const pad = new Pad(find, set);
const camera = new Camera(find("camera-picture"), socket, (text) => {
  note(text);
  drawCamera();
});
const picture = new Picture(find("picture"), (head) => {
  find("caption").textContent = captions ? head.prompt : "";
  find("picture").setAttribute("aria-label", `the picture: ${head.prompt}`);
  const age = head.sender?.client === hello.you ? camera.age(head.sender.picture) : null;
  if (age !== null) ages.push(age);
  if (ages.length > 30) ages.shift();
  shown += 1;
  if (document.hidden) hidden = head.frame; // a page that nobody sees takes no more
  else socket.send({ do: "shown", frame: head.frame });
});

let hello = { you: 0, layers: [] };
let steering = false, captions = true, shown = 0, hidden = null, lastNote = "", over = false;
const ages = [];

document.addEventListener("visibilitychange", () => {
  if (document.hidden || hidden === null) return;
  socket.send({ do: "shown", frame: hidden });
  hidden = null;
});

socket.addEventListener("open", () => {
  over = false;
  connection("connected", false);
});
socket.addEventListener("lost", async () => {
  hidden = null;
  steer({ steers: null, asking: [], here: [] });
  connection(over ? "the session is over; waiting for the next" : "no connection; trying again", true);
  try {
    const token = location.hash.slice(1);
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const answer = await fetch("api/state", { headers });
    if (!answer.ok) connection((await answer.text()).trim(), true);
  } catch {
    // no server: said already
  }
});
socket.addEventListener("over", () => (over = true));
socket.addEventListener("error", ({ detail }) => note(detail));
socket.addEventListener("frame", ({ detail }) => picture.take(detail));
socket.addEventListener("hello", ({ detail }) => begin(detail));
socket.addEventListener("values", ({ detail }) => {
  parameters.take(detail.values);
  prompts.take(detail.values, detail.stops, detail.below);
  pad.take(detail.values, detail.stops, detail.below);
});
socket.addEventListener("people", ({ detail }) => steer(detail));
socket.addEventListener("figures", ({ detail }) => {
  if (detail.fps === undefined) return;
  find("fps").textContent = detail.fps.toFixed(1);
  const own = ages.length > 0 && camera.on;
  const median = own ? [...ages].sort((a, b) => a - b)[ages.length >> 1] : detail.latency_ms;
  find("latency-name").textContent = own ? "camera to screen" : "latency";
  find("latency").textContent = `${Math.round(median)} ms`;
  find("dropped").textContent = detail.dropped;
  find("memory").textContent = `${(detail.memory_bytes / 2 ** 30).toFixed(2)} GiB`;
  find("record").setAttribute("aria-pressed", String(detail.recording));
  find("record").textContent = detail.recording ? "Stop recording" : "Record";
  prompts.list(detail.prompts, detail.index);
  const text = detail.loading ? "loading the model\u2026" : detail.note || (detail.coming ? `next: ${detail.coming}` : "");
  if (text !== lastNote) {
    if (text || find("note").textContent === lastNote) note(text);
    lastNote = text;
  }
});

function begin(message) {
  hello = message;
  find("model").textContent = message.model;
  picture.layers = message.layers;
  picture.aspect = message.aspect;
  parameters.build(message.parameters);
  drawViews(message.layers);
  find("camera").hidden = !message.camera;
  describe(message.keys, find("help-rows").tBodies[0]);
  document.onkeydown = listen(message.keys, LOCAL, change, () => find("keys-on").checked);
  if (camera.on && !message.camera) stopCamera();
}

const LOCAL = {
  quit: () => find("quit").showModal(),
  type_a_prompt: () => {
    find("prompt").focus();
    find("prompt").select();
  },
  side_by_side: () => look(picture.view === "side" ? "picture" : "side"),
  split: () => look(picture.view === "split" ? "picture" : "split"),
  edges: () => look(picture.view === "edges" ? "picture" : "edges"),
  overlay: () => {
    captions = !captions;
    find("caption").textContent = "";
    find("figures").hidden = !captions;
  },
  full_screen: () => fullScreen(),
  help: () => find("help").showModal(),
};

function connection(text, lost) {
  find("connection").textContent = text;
  find("connection").className = lost ? "lost" : "";
}

function steer({ steers, asking, here }) {
  steering = steers !== null && steers === hello.you;
  find("steered").disabled = !steering;
  for (const each of document.querySelectorAll(".steers")) each.disabled = !steering;
  const others = here.length - 1;
  find("steers").textContent = steering
    ? `this page steers${others > 0 ? `; ${others} more look on` : ""}`
    : steers === null ? "" : `page ${steers} steers; this is page ${hello.you}`;
  find("ask").hidden = steering || steers === null;
  find("ask").textContent = asking.includes(hello.you) ? "Asked; take it back" : "Ask to steer";
  find("ask").onclick = () => socket.send({ do: asking.includes(hello.you) ? "withdraw" : "ask" });
  find("asking").replaceChildren(...(steering ? asking.flatMap(question) : []));
  if (!steering && steers !== null && camera.on) stopCamera(); // lost, it waits
}

function question(number) {
  const give = element("button", { type: "button", textContent: `Let page ${number} steer` });
  give.onclick = () => socket.send({ do: "give", to: number });
  const keep = element("button", { type: "button", textContent: "Keep steering" });
  keep.onclick = () => socket.send({ do: "keep" });
  return [give, keep];
}

function drawViews(layers) {
  const views = Object.entries(VIEWS).filter(([name]) => name !== "edges" || layers.includes("edges"));
  const legend = find("views").querySelector("legend");
  find("views").replaceChildren(
    legend,
    ...views.map(([name, title]) => {
      const label = element("label", { textContent: title });
      const choice = element("input", { type: "radio", name: "view", value: name });
      choice.checked = name === picture.view;
      choice.addEventListener("change", () => look(name));
      label.prepend(choice);
      return label;
    }),
  );
  look(picture.view);
}

function look(view) {
  if (view === "edges" && !hello.layers.includes("edges")) {
    note("nothing reads edges in this session");
    return;
  }
  picture.view = view;
  for (const each of document.querySelectorAll("input[name=view]")) each.checked = each.value === view;
  find("split-row").hidden = view !== "split";
  socket.show(picture.needs);
  picture.redraw();
}

function fullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else if (!document.fullscreenEnabled) note("this browser has no full screen for pages");
  else find("screen").requestFullscreen().catch((error) => note(`no full screen: ${error.message}`));
}

function drawCamera() {
  find("camera-switch").setAttribute("aria-pressed", String(camera.on));
  find("camera-switch").textContent = camera.on ? "Stop this camera" : "Use this camera";
  find("camera-choice").disabled = !camera.on;
  find("camera-picture").hidden = !camera.on;
}

async function startCamera() {
  ages.length = 0;
  await camera.start(find("camera-choice").value, hello.width, hello.height);
  drawCamera();
  const choices = await camera.choices(), chosen = find("camera-choice").value;
  find("camera-choice").replaceChildren(
    element("option", { value: "", textContent: "default" }),
    ...choices.map((each, at) =>
      element("option", { value: each.deviceId, textContent: each.label || `camera ${at + 1}` })),
  );
  find("camera-choice").value = chosen;
}

function stopCamera() {
  camera.stop();
  drawCamera();
}

find("camera-switch").onclick = () => (camera.on ? stopCamera() : startCamera());
find("camera-choice").onchange = startCamera;
find("snapshot").onclick = () => happen("snapshot");
find("record").onclick = () => happen("record");
find("previous").onclick = () => happen("previous_prompt");
find("next").onclick = () => happen("next_prompt");
find("full").onclick = fullScreen;
find("keys").onclick = () => find("help").showModal();
find("quit").onclose = () => find("quit").returnValue === "quit" && happen("quit");
find("split").oninput = (event) => {
  picture.split = Number(event.target.value);
  picture.redraw();
};
find("download").onclick = async () => {
  const blob = await picture.blob();
  const link = element("a", { href: URL.createObjectURL(blob), download: "sdxs.png" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
};
window.addEventListener("resize", () => picture.redraw());
steer({ steers: null, asking: [], here: [] });
socket.connect();

// For tests: what this page has shown.
window.sdxs = { get shown() { return shown; }, get ages() { return [...ages]; } };
