// Sprite strips of the gallery, and painting them. A strip is one sample by one method: a tile per ratio of the slider.

export class Strips {
  constructor(folder, missing) {
    this.folder = folder;
    this.missing = new Set(missing);
    this.loading = new Map();
    this.loaded = new Map();
  }

  /** Get the decoded strip if it is here already. */
  get(sample, method) {
    return this.loaded.get(fileName(sample, method));
  }

  /** Fetch and decode a strip, once; undefined where the gallery lacks it. */
  load(sample, method) {
    const file = fileName(sample, method);
    if (this.missing.has(file)) return Promise.resolve(undefined);
    if (!this.loading.has(file)) this.loading.set(file, this.fetch(file));
    return this.loading.get(file);
  }

  async fetch(file) {
    const image = new Image();
    image.src = this.folder + encodeURIComponent(file);
    try {
      await image.decode();
    } catch {
      this.missing.add(file);
      return undefined;
    }
    const strip = addUpTiles(image);
    this.loaded.set(file, strip);
    return strip;
  }
}

/** Restore the pictures of a strip, whose tiles are stored as differences to the one before, modulo 256. */
function addUpTiles(image) {
  const strip = document.createElement("canvas");
  [strip.width, strip.height] = [image.naturalWidth, image.naturalHeight];
  const context = strip.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, strip.width, strip.height);
  const [row, tile] = [4 * strip.width, 4 * strip.height]; // bytes; tiles are square
  for (let at = 0; at < pixels.data.length; at++)
    if (at % row >= tile && at % 4 !== 3) pixels.data[at] = (pixels.data[at] + pixels.data[at - tile]) & 255;
  context.putImageData(pixels, 0, 0);
  return strip;
}

const fileName = (sample, method) => `${String(sample).padStart(2, "0")}-${method}.webp`;

/** Paint a tile of a strip, or a whole picture, on a canvas; without an image, clear it. */
export function paint(canvas, image, tile = 0) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!image) {
    context.clearRect(0, 0, canvas.width, canvas.height);
    return;
  }
  const size = image.height;
  if (canvas.width !== size) canvas.width = canvas.height = size;
  context.drawImage(image, tile * size, 0, size, size, 0, 0, size, size);
}

/** Paint where two canvases differ: grey where they do not, brighter or darker in the channel that rose or fell. */
export function paintDifference(canvas, one, other, gain) {
  if (!one.width || one.width !== other.width) return;
  if (canvas.width !== one.width) canvas.width = canvas.height = one.width;
  const [first, second] = [one, other].map((from) => from.getContext("2d").getImageData(0, 0, one.width, one.height));
  const pixels = new ImageData(one.width, one.height);
  for (let index = 0; index < pixels.data.length; index++)
    pixels.data[index] = index % 4 === 3 ? 255 : 128 + gain * (second.data[index] - first.data[index]);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}
