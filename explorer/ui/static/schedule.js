// A schedule in the browser: which unit really runs, what it costs. The port of graph.BlockGraph's `demanded`, `close` and
// `cost`; a test holds both against each other on random schedules. Tables are flat, call by call: keep[call * units + unit].

export const FATES = { computed: 0, reused: 1, dead: 2, skipped: 3 };

const transparent = (unit) => unit.kind === "branch" || unit.reuse === "residual"; // read even when it is skipped

/** Bits as numpy.packbits has them, in base64 -> a table of zeros and ones. */
export function unpack(text, size) {
  const bytes = Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));
  return Uint8Array.from({ length: size }, (_, index) => (bytes[index >> 3] >> (7 - (index & 7))) & 1);
}

/** The way back, in letters that an address bears. */
export function pack(keep) {
  const bytes = new Uint8Array(Math.ceil(keep.length / 8));
  keep.forEach((bit, index) => (bytes[index >> 3] |= bit << (7 - (index & 7))));
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** 32-bit floats in base64. */
export function floats(text) {
  return new Float32Array(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
}

/** Whose output somebody reads, if `keep` runs: backwards from the output. */
export function demanded(graph, keep) {
  const width = graph.units.length;
  const found = new Uint8Array(keep.length);
  for (let row = 0; row < keep.length; row += width) {
    found[row + width - 1] = 1;
    for (let column = width - 1; column >= 0; column--) {
      const unit = graph.units[column];
      if (!found[row + column] || !(keep[row + column] || transparent(unit))) continue;
      for (const read of unit.reads) found[row + read] = 1;
    }
  }
  return found;
}

/** The cascade: what really runs, because a unit that nobody reads does not. Call 0 always runs whole. */
export function close(graph, keep) {
  const whole = keep.map((bit, index) => (index < graph.units.length ? 1 : bit));
  const read = demanded(graph, whole);
  return whole.map((bit, index) => bit & read[index]);
}

/** MACs of a closed schedule: of each call, of each unit over all calls, of the whole, and the share that is kept. */
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

/** What happens to each unit at each call, from which call its value is, and how many cells have each fate. */
export function fates(graph, keep) {
  const width = graph.units.length;
  const read = demanded(graph, keep);
  const fate = new Uint8Array(keep.length);
  const source = new Int32Array(keep.length);
  const counts = [0, 0, 0, 0];
  for (let row = 0; row < keep.length; row += width) {
    const runs = keep.subarray(row, row + width).some(Boolean);
    for (let index = row; index < row + width; index++) {
      if (keep[index]) source[index] = row / width;
      else {
        source[index] = row ? source[index - width] : 0;
        fate[index] = !runs ? FATES.skipped : read[index] ? FATES.reused : FATES.dead;
      }
      counts[fate[index]]++;
    }
  }
  return { fate, source, counts };
}

/** Who computes each cell of two schedules: 0 both, 1 only this one, 2 only the other, 3 neither; how many have each. */
export function versus(keep, other) {
  const counts = [0, 0, 0, 0];
  const fate = keep.map((bit, index) => (bit ? (other[index] ? 0 : 1) : other[index] ? 2 : 3));
  for (const one of fate) counts[one]++;
  return { fate, counts };
}
