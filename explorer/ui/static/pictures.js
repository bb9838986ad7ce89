// Strips of pictures of the gallery, and painting them. A strip is a scene by one method: a tile a stop of the slider.

export class Strips {
  constructor(folder, missing) {
    this.folder = folder;
    this.missing = new Set(missing);
    this.loading = new Map();
    this.there = new Map();
  }

  /** The decoded strip if it is here already. */
  get(scene, method) {
    return this.there.get(name(scene, method));
  }

  /** Fetch and decode a strip, once; undefined where the gallery lacks it. */
  load(scene, method) {
    const file = name(scene, method);
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
    const strip = summed(image);
    this.there.set(file, strip);
    return strip;
  }
}

/** The pictures of a strip, whose tiles are stored as what each adds to the one before, modulo 256. */
function summed(image) {
  const strip = document.createElement("canvas");
  [strip.width, strip.height] = [image.naturalWidth, image.naturalHeight];
  const context = strip.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const painted = context.getImageData(0, 0, strip.width, strip.height);
  const [row, tile] = [4 * strip.width, 4 * strip.height]; // bytes; tiles are square
  for (let at = 0; at < painted.data.length; at++)
    if (at % row >= tile && at % 4 !== 3) painted.data[at] = (painted.data[at] + painted.data[at - tile]) & 255;
  context.putImageData(painted, 0, 0);
  return strip;
}

const name = (scene, method) => `${String(scene).padStart(2, "0")}-${method}.webp`;

/** Paint a tile of a strip, or a whole picture, over a canvas. Nothing to paint leaves it empty. */
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
  const painted = new ImageData(one.width, one.height);
  for (let index = 0; index < painted.data.length; index++)
    painted.data[index] = index % 4 === 3 ? 255 : 128 + gain * (second.data[index] - first.data[index]);
  canvas.getContext("2d").putImageData(painted, 0, 0);
}
