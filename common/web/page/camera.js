// This browser's camera, sent as JPEGs: two on their way at most, the newest first.

const ON_THEIR_WAY = 2, QUALITY = 0.85, LOST_MS = 2000;

export class Camera {
  #video;
  #socket;
  #canvas = document.createElement("canvas");
  #stream = null;
  #number = 0;
  #sent = new Map();
  #busy = false;

  // failed: called with a sentence.
  constructor(video, socket, failed) {
    this.#video = video;
    this.#socket = socket;
    this.failed = failed;
    socket.addEventListener("taken", ({ detail }) => {
      if (detail.error) this.failed(detail.error);
      const sent = this.#sent.get(detail.picture);
      if (sent) sent.taken = true;
    });
    socket.addEventListener("lost", () => this.#sent.clear());
  }

  get on() {
    return this.#stream !== null;
  }

  // Begin with a camera by its id, '' for the default; width and height of the session's frames.
  async start(id, width, height) {
    if (!navigator.mediaDevices) {
      this.failed(
        "this browser gives its camera only to pages of https or of this machine; start sdxs " +
          "with --web-cert, or reach it by `ssh -L`",
      );
      return;
    }
    this.stop();
    const video = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } };
    if (id) video.deviceId = { exact: id };
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia({ video, audio: false });
    } catch (error) {
      this.failed(`the camera cannot be used: ${error.message || error.name}`);
      return;
    }
    this.#video.srcObject = this.#stream;
    await this.#video.play();
    this.#next(width, height, this.#stream);
  }

  stop() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = null;
    this.#video.srcObject = null;
    this.#sent.clear();
  }

  async choices() {
    const all = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
    return all.filter((each) => each.kind === "videoinput");
  }

  // Milliseconds since a picture of this camera was taken, or null.
  age(number) {
    const sent = this.#sent.get(number);
    return sent ? performance.now() - sent.at : null;
  }

  #next(width, height, stream) {
    if (stream !== this.#stream) return;
    const again = () => {
      this.#grab(width, height);
      this.#next(width, height, stream);
    };
    if (this.#video.requestVideoFrameCallback) this.#video.requestVideoFrameCallback(again);
    else setTimeout(again, 33);
  }

  async #grab(width, height) {
    const video = this.#video, now = performance.now();
    for (const [number, sent] of this.#sent) if (now - sent.at > LOST_MS) this.#sent.delete(number);
    const waiting = [...this.#sent.values()].filter((sent) => !sent.taken).length;
    if (this.#busy || waiting >= ON_THEIR_WAY || !video.videoWidth) return;
    this.#busy = true;
    try {
      const scale = Math.min(1, Math.max(width / video.videoWidth, height / video.videoHeight));
      this.#canvas.width = Math.round(video.videoWidth * scale);
      this.#canvas.height = Math.round(video.videoHeight * scale);
      this.#canvas.getContext("2d", { alpha: false })
        .drawImage(video, 0, 0, this.#canvas.width, this.#canvas.height);
      const blob = await new Promise((done) => this.#canvas.toBlob(done, "image/jpeg", QUALITY));
      const picture = ++this.#number;
      this.#sent.set(picture, { at: now, taken: false });
      if (!blob || !(await this.#socket.sendPicture({ picture }, blob))) this.#sent.delete(picture);
    } finally {
      this.#busy = false;
    }
  }
}
