// Runs images, in batches, through an ONNX file; the same in Node and in a browser.
// Returns all probabilities, and the mean time for an image in seconds.
async function runInBatches(ort, session, pixels, size) {
  const probabilities = [];
  const start = performance.now();
  for (let at = 0; at < pixels.length; at += 784 * size) {
    const batch = pixels.slice(at, at + 784 * size);
    const image = new ort.Tensor("uint8", batch, [batch.length / 784, 28, 28]);
    probabilities.push(...(await session.run({ image })).probabilities.data);
  }
  const seconds = (performance.now() - start) / 1000 / (pixels.length / 784);
  return { probabilities, seconds };
}
