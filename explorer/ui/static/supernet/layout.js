// Where the drawing has its blocks and wires. A call is a column with a small U: down blocks at its left, up blocks at its
// right, the middle below. Coordinates are those of the SVG's own view box.

const COLUMN = 200; // from one call to the next
const TOP = 132; // under a call's picture and name
const SIZES = { stage: { row: 50, width: 62, height: 32 }, layer: { row: 23, width: 62, height: 17 } }; // of a block
const LEFT = 14; // of a column's first block
const RIGHT = 118; // of its up blocks
export const PICTURE = { size: 92, top: 4 };

/** Find the kind and the number of a block: { kind: "down" | "mid" | "up", number: 1 }, and which `layer` of its stage it is, or 0
 * where it is the whole stage. */
function kindOf({ units }, granularity, unit) {
  const stage = (name) => /^(down|up)_blocks\.\d+|^mid_block/.exec(name)[0];
  const [, kind, number] = /^(down|up)_blocks\.(\d+)/.exec(units[unit].name) ?? [];
  const before = units.slice(0, unit).filter(({ name }) => stage(name) === stage(units[unit].name)).length;
  return { kind: kind ?? "mid", number: Number(number ?? 0) + 1, layer: granularity === "layer" ? before + 1 : 0 };
}

/** Place all blocks of all calls, and all wires: { width, height, blocks: [{ call, unit, x, y, ... }], wires, backups, skips }. */
export function layOut({ graph, granularity, calls }) {
  const { units } = graph;
  const { row: rowHeight, ...size } = SIZES[granularity];
  const kinds = units.map((_, unit) => kindOf(graph, granularity, unit));
  const numOf = (wanted) => kinds.filter(({ kind }) => kind === wanted).length;
  const depth = Math.max(numOf("down"), numOf("up"));
  const firstOf = (wanted) => kinds.findIndex(({ kind }) => kind === wanted);
  const place = (call, unit) => {
    const { kind } = kinds[unit];
    const x = call * COLUMN + { down: LEFT, mid: (LEFT + RIGHT) / 2, up: RIGHT }[kind];
    const row = { down: unit, mid: depth + unit - firstOf("mid"), up: units.length - 1 - unit }[kind];
    return { call, unit, ...kinds[unit], x, y: TOP + row * rowHeight, ...size };
  };
  const all = Array.from({ length: calls }, (_, call) => units.map((_, unit) => place(call, unit)));
  const pairs = units.flatMap((unit, reader) => unit.reads.map((read) => [read, reader]));
  const later = all.slice(1);
  const last = units.length - 1;
  return {
    ...{ width: calls * COLUMN, height: TOP + (depth + numOf("mid")) * rowHeight, blocks: all.flat() },
    wires: all.flatMap((row, call) => pairs.map(([from, to]) => ({ call, from, to, path: within(row[from], row[to]) }))),
    backups: later.flatMap((row, index) => row.map((block, unit) => ({ call: index + 1, unit, path: across(all[index][unit], block) }))),
    flows: later.map((row, index) => ({ call: index + 1, path: flow(all[index][last], row[0]) })),
    columns: all.map((_, call) => ({ call, x: call * COLUMN, center: call * COLUMN + (LEFT + RIGHT + size.width) / 2 })),
  };
}

/** Connect two blocks of a call: downwards and upwards in a column, from left to right between them. */
function within(from, to) {
  const [fromX, toX] = [from.x + from.width / 2, to.x + to.width / 2];
  if (from.kind === to.kind) {
    const isDown = to.y > from.y;
    return `M${fromX} ${isDown ? from.y + from.height : from.y}L${toX} ${isDown ? to.y : to.y + to.height}`;
  }
  const [startY, endY] = [from.y + from.height / 2, to.y + to.height / 2];
  if (to.kind === "mid") return `M${fromX} ${from.y + from.height}Q${fromX} ${endY} ${to.x} ${endY}`;
  if (from.kind === "mid") return `M${from.x + from.width} ${startY}Q${toX} ${startY} ${toX} ${to.y + to.height}`;
  return `M${from.x + from.width} ${startY}L${to.x} ${endY}`;
}

/** Connect a block with itself one call later: an arc that dips under the row, or for up blocks rises over it. */
function across(from, to) {
  const isUp = from.kind === "up";
  const [y, dip] = [isUp ? from.y + 4 : from.y + from.height - 4, (isUp ? -0.32 : 0.32) * from.height];
  return `M${from.x + from.width - 6} ${y}C${from.x + from.width + 30} ${y + dip} ${to.x - 30} ${y + dip} ${to.x + 4} ${y}`;
}

/** Connect a call's last block with the next call's first, which gets the picture so far. */
function flow(from, to) {
  const y = from.y + from.height / 3;
  return `M${from.x + from.width} ${y}L${to.x} ${y}`;
}
