// A schedule in the browser: which unit really runs, and what it costs. The port of `needed`, `close` and `cost` of
// masks/block_graph.py; a test compares both on random schedules. Tables are flat, call by call: keep[call * units + unit].

export const STATUS = { computed: 0, reused: 1, dead: 2, skipped: 3 };

const passesInput = (unit) => unit.kind === "branch" || unit.reuse === "residual"; // read even when it is skipped

/** Decode bits as numpy.packbits writes them, in base64, into a table of zeros and ones. */
export function unpack(text, size) {
  const bytes = Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));
  return Uint8Array.from({ length: size }, (_, index) => (bytes[index >> 3] >> (7 - (index & 7))) & 1);
}

/** Encode a table of bits in URL-safe base64. */
export function pack(keep) {
  const bytes = new Uint8Array(Math.ceil(keep.length / 8));
  keep.forEach((bit, index) => (bytes[index >> 3] |= bit << (7 - (index & 7))));
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** Decode 32-bit floats in base64. */
export function floats(text) {
  return new Float32Array(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
}

/** Mark the units whose output is read if `keep` runs: backwards from the output. */
export function needed(graph, keep) {
  const width = graph.units.length;
  const found = new Uint8Array(keep.length);
  for (let row = 0; row < keep.length; row += width) {
    found[row + width - 1] = 1;
    for (let column = width - 1; column >= 0; column--) {
      const unit = graph.units[column];
      if (!found[row + column] || !(keep[row + column] || passesInput(unit))) continue;
      for (const read of unit.reads) found[row + read] = 1;
    }
  }
  return found;
}

/** Apply the cascade: a unit that no running unit reads does not run. Call 0 always runs whole. */
export function close(graph, keep) {
  const whole = keep.map((bit, index) => (index < graph.units.length ? 1 : bit));
  const read = needed(graph, whole);
  return whole.map((bit, index) => bit & read[index]);
}

/** Count the MACs of a closed schedule: of each call, of each unit over all calls, in total, and the share that is kept. */
export function cost(graph, keep) {
  const width = graph.units.length;
  const calls = new Float64Array(keep.length / width);
  const units = new Float64Array(width);
  keep.forEach((bit, index) => {
    if (!bit) return;
    const macs = graph.units[index % width].macs;
    calls[Math.floor(index / width)] += macs;
    units[index % width] += macs;
  });
  const perCall = graph.units.reduce((sum, unit) => sum + unit.macs, graph.macs_fixed);
  calls.forEach((macs, call) => macs && (calls[call] += graph.macs_fixed));
  const total = calls.reduce((sum, macs) => sum + macs, 0);
  return { calls, units, total, perCall, kept: total / (perCall * calls.length) };
}

/** Tell the status of each unit at each call, the call whose value it holds, and how many cells have each status. */
export function statusOf(graph, keep) {
  const width = graph.units.length;
  const read = needed(graph, keep);
  const status = new Uint8Array(keep.length);
  const sourceCall = new Int32Array(keep.length);
  const counts = [0, 0, 0, 0];
  for (let row = 0; row < keep.length; row += width) {
    const runs = keep.subarray(row, row + width).some(Boolean);
    for (let index = row; index < row + width; index++) {
      if (keep[index]) sourceCall[index] = row / width;
      else {
        sourceCall[index] = row ? sourceCall[index - width] : 0;
        status[index] = !runs ? STATUS.skipped : read[index] ? STATUS.reused : STATUS.dead;
      }
      counts[status[index]]++;
    }
  }
  return { status, sourceCall, counts };
}

/** Compare two schedules cell by cell: 0 both compute it, 1 only this one, 2 only the other, 3 neither; and count them. */
export function compare(keep, other) {
  const counts = [0, 0, 0, 0];
  const status = keep.map((bit, index) => (bit ? (other[index] ? 0 : 1) : other[index] ? 2 : 3));
  for (const one of status) counts[one]++;
  return { status, counts };
}
