// Sheets of pictures: one file with many square tiles, row by row. A tile is shown by an SVG of its own whose view box is the
// tile's place in the sheet.

export const LESSON = new URL("../../lesson/", import.meta.url); // where the page serves assets/lesson
const SIZES = { subnets: 64, noisy: 64, extrapolated: 64, features: 32, widths: 64, fifty: 64 }; // of a tile, in pixels
const MAX_ACROSS = 32;

/** Name a tile of a scene's sheet, or of one that belongs to no scene of the lesson (null); `count` is how many the sheet has. */
export function tileOf(scene, part, index, count) {
  const across = Math.min(MAX_ACROSS, count);
  const name = scene === null ? part : `${scene.prompt}-${scene.seed}-${part}`;
  return { sheet: new URL(`${name}.webp`, LESSON).href, index, size: SIZES[part], across, rows: Math.ceil(count / across) };
}

/** Make a tile of a picture of its own. */
export const tileOfPicture = (source) => ({ sheet: source, index: 0, size: 64, across: 1, rows: 1 });

/** Make the SVG that `showTile` fills. */
export const tileMarkup = (label = "") => `<svg class="tile" role="img" aria-label="${label}" viewBox="0 0 64 64"><image/></svg>`;

/** Show a tile, or nothing for null. */
export function showTile(svg, tile) {
  svg.style.visibility = tile ? "" : "hidden";
  if (!tile) return;
  const { sheet, index, size, across, rows } = tile;
  svg.setAttribute("viewBox", `${(index % across) * size} ${Math.floor(index / across) * size} ${size} ${size}`);
  const image = svg.firstElementChild;
  if (image.getAttribute("href") !== sheet) image.setAttribute("href", sheet);
  image.setAttribute("width", across * size);
  image.setAttribute("height", rows * size);
}
