"use strict";
/* The attention map of a word, drawn over the image. */

const heat = (() => {
  // Equally spaced colours of matplotlib's inferno.
  const COLOURS = [
    [0, 0, 4], [17, 10, 48], [50, 10, 94], [87, 16, 110], [120, 28, 109], [154, 40, 101],
    [188, 55, 84], [216, 76, 62], [237, 105, 37], [249, 142, 9], [251, 182, 26], [244, 223, 83],
    [252, 255, 164],
  ];
  const OPACITY = 0.6;
  const SIDE = 128;

  function colourOf(value) {
    const place = (Math.min(Math.max(value, 0), 255) / 255) * (COLOURS.length - 1);
    const low = Math.min(Math.floor(place), COLOURS.length - 2);
    return COLOURS[low].map((part, at) => part + (place - low) * (COLOURS[low + 1][at] - part));
  }
  const TABLE = Array.from({ length: 256 }, (_, value) => colourOf(value));

  /** Bicubic weights from a grid of `size` values to SIDE positions: [[from, weight]] for each. */
  function weights(size) {
    const cubic = (t) => (t < 1 ? 1.5 * t ** 3 - 2.5 * t ** 2 + 1 : t < 2 ? -0.5 * t ** 3 + 2.5 * t ** 2 - 4 * t + 2 : 0);
    return Array.from({ length: SIDE }, (_, to) => {
      const centre = ((to + 0.5) / SIDE) * size - 0.5;
      const first = Math.floor(centre) - 1;
      const near = Array.from({ length: 4 }, (_, k) => [first + k, cubic(Math.abs(first + k - centre))])
        .filter(([from]) => from >= 0 && from < size);
      const sum = near.reduce((total, [, weight]) => total + weight, 0);
      return near.map(([from, weight]) => [from, weight / sum]);
    });
  }
  const kept = new Map();
  const weightsOf = (size) => kept.get(size) ?? kept.set(size, weights(size)).get(size);

  /** Draws the map of a word from [h, w, base64 of words x h x w], enlarged bicubically. */
  function draw(canvas, [height, width, text], word) {
    const bytes = atob(text);
    const start = word * height * width;
    const value = (y, x) => bytes.charCodeAt(start + y * width + x);
    const across = weightsOf(width), down = weightsOf(height);
    const rows = Array.from({ length: height }, (_, y) =>
      across.map((near) => near.reduce((sum, [x, weight]) => sum + weight * value(y, x), 0)));
    const image = new ImageData(SIDE, SIDE);
    for (let y = 0; y < SIDE; y++) {
      for (let x = 0; x < SIDE; x++) {
        let sum = 0;
        for (const [from, weight] of down[y]) sum += weight * rows[from][x];
        const [red, green, blue] = TABLE[Math.min(Math.max(Math.round(sum), 0), 255)];
        image.data.set([red, green, blue, 255 * OPACITY], 4 * (y * SIDE + x));
      }
    }
    canvas.width = canvas.height = SIDE;
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  return { draw };
})();
