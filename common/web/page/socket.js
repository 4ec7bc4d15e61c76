// The one socket: it reconnects by itself, and gives credit back for frames that were shown.

const CREDIT = 3;
const FIRST_WAIT_MS = 300, LONGEST_WAIT_MS = 3000;

export class Socket extends EventTarget {
  #socket = null;
  #wait = FIRST_WAIT_MS;
  #layers = ["picture"];
  #number = 0;
  #questions = new Map();

  connect() {
    const url = new URL("api/socket", location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    url.hash = "";
    const token = location.hash.slice(1);
    const socket = new WebSocket(url, token ? ["sdxs", `token.${token}`] : ["sdxs"]);
    socket.binaryType = "arraybuffer";
    socket.onmessage = (event) => this.#hear(event.data);
    socket.onopen = () => {
      this.#wait = FIRST_WAIT_MS;
      this.#tell("open");
      this.show(this.#layers);
    };
    socket.onclose = (event) => {
      this.#socket = null;
      this.#questions.clear();
      this.#tell("lost", event);
      setTimeout(() => this.connect(), this.#wait);
      this.#wait = Math.min(2 * this.#wait, LONGEST_WAIT_MS);
    };
    this.#socket = socket;
  }

  // Send a message; `said` is told the answer of a change, "" if it was applied.
  send(message, said) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    if (said) {
      message = { ...message, id: ++this.#number };
      this.#questions.set(message.id, said);
    }
    this.#socket.send(message instanceof Uint8Array ? message : JSON.stringify(message));
    return true;
  }

  show(layers) {
    this.#layers = layers;
    this.send({ do: "show", layers, credit: CREDIT });
  }

  // Send a picture: 4 bytes with the length of a JSON head, the head, the JPEG.
  async sendPicture(head, blob) {
    const packed = new TextEncoder().encode(JSON.stringify(head));
    const jpeg = new Uint8Array(await blob.arrayBuffer());
    const data = new Uint8Array(4 + packed.length + jpeg.length);
    new DataView(data.buffer).setUint32(0, packed.length, true);
    data.set(packed, 4);
    data.set(jpeg, 4 + packed.length);
    return this.send(data);
  }

  #hear(data) {
    if (typeof data !== "string") {
      this.#tell("frame", unpack(data));
      return;
    }
    const message = JSON.parse(data);
    if (message.type === "answer") {
      const said = this.#questions.get(message.id);
      this.#questions.delete(message.id);
      if (said) said(message.error);
      else if (message.error) this.#tell("error", message.error);
      return;
    }
    this.#tell(message.type, message);
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const layers = {};
  let at = 4 + length;
  for (const [name, size] of Object.entries(head.layers)) {
    layers[name] = new Blob([new Uint8Array(buffer, at, size)], { type: "image/jpeg" });
    at += size;
  }
  return { head, layers };
}
