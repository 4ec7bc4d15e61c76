// Encodes pictures of the camera, in a worker: a canvas of the page waits until the page is idle.

const canvas = new OffscreenCanvas(1, 1);

onmessage = async ({ data: { number, frame, width, height, quality } }) => {
  try {
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    canvas.getContext("2d", { alpha: false }).drawImage(frame, 0, 0, width, height);
    frame.close();
    const blob = await canvas.convertToBlob({ type: "image/jpeg", quality });
    postMessage({ number, blob });
  } catch (error) {
    postMessage({ number, blob: null, error: String(error) });
  }
};
