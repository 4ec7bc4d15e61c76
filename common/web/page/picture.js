// Draws frames: the picture, the camera beside it, half of each, or the edges.

export const VIEWS = { picture: "Picture", side: "Side by side", split: "Split", edges: "Edges" };

export class Picture {
  view = "picture";
  split = 0.5;
  aspect = 1;
  #canvas;
  #next = null;
  #last = null;
  #busy = false;
  #outputs = ["picture"];

  // shown: called with the head of each frame that is on the canvas.
  constructor(canvas, shown) {
    this.#canvas = canvas;
    this.shown = shown;
  }

  set layers(names) {
    this.#outputs = names.filter((name) => name.startsWith("picture"));
  }

  // The layers that the view needs.
  get needs() {
    if (this.view === "edges") return ["edges"];
    return this.view === "picture" ? this.#outputs : [...this.#outputs, "camera"];
  }

  // Take a frame; of those that arrive while one is decoded, the newest is drawn.
  take(frame) {
    this.#next = frame;
    if (!this.#busy) this.#work();
  }

  redraw() {
    if (this.#last) this.#draw(this.#last);
  }

  blob() {
    return new Promise((done) => this.#canvas.toBlob(done, "image/png"));
  }

  async #work() {
    this.#busy = true;
    while (this.#next) {
      const { head, layers } = this.#next;
      this.#next = null;
      try {
        const names = Object.keys(layers);
        const decoded = await Promise.all(names.map((name) => createImageBitmap(layers[name])));
        for (const old of Object.values(this.#last ?? {})) old.close();
        this.#last = Object.fromEntries(names.map((name, at) => [name, decoded[at]]));
        this.#draw(this.#last);
      } catch {
        // a frame that cannot be decoded is not drawn; its credit goes back
      }
      this.shown(head);
    }
    this.#busy = false;
  }

  #draw(layers) {
    const outputs = this.#outputs.map((name) => layers[name]).filter(Boolean);
    if (this.view === "edges" && layers.edges) this.#place([layers.edges]);
    else if (this.view === "side" && layers.camera) this.#place([layers.camera, ...outputs]);
    else if (outputs.length) this.#place(outputs, this.view === "split" ? layers.camera : null);
  }

  // Draw pictures in a row, or in a column where the page is higher than wide.
  #place(pictures, under) {
    const height = pictures[0].height, width = Math.round(height * this.aspect);
    const column = pictures.length > 1 && innerHeight > innerWidth;
    const columns = column ? 1 : pictures.length, rows = column ? pictures.length : 1;
    const canvas = this.#canvas;
    if (canvas.width !== width * columns || canvas.height !== height * rows) {
      canvas.width = width * columns;
      canvas.height = height * rows;
    }
    const pen = canvas.getContext("2d", { alpha: false });
    pictures.forEach((picture, number) => {
      const x = column ? 0 : number * width, y = column ? number * height : 0;
      pen.drawImage(picture, x, y, width, height);
      if (!under) return;
      const cut = Math.round(under.width * this.split), edge = Math.round(width * this.split);
      if (cut > 0) pen.drawImage(under, 0, 0, cut, under.height, x, y, edge, height);
      pen.fillStyle = "#fff";
      pen.fillRect(x + edge, y, 1, height);
    });
  }
}
