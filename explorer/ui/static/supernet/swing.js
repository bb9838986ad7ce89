// How a reader's wire swings: from a block to that block one call earlier, whose output it gets instead, or back again.

const SWING_MS = 500;
const MOST_WIRES = 12; // of one click; where a whole choice is replaced, nothing swings

const between = (from, to, share) => from.map((value, axis) => value + share * (to[axis] - value));

/** Swing wires of an svg. Each: `wire`, its path, and `earlier`, the middle of the block one call before; `isBack`: it returns. */
export function swing(svg, wires) {
  if (wires.length > MOST_WIRES || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const { wire, earlier, isBack } of wires) {
    const ends = [0, wire.getTotalLength()].map((at) => wire.getPointAtLength(at)).map(({ x, y }) => [x, y]);
    const moving = document.createElementNS(svg.namespaceURI, "path");
    moving.setAttribute("class", "swing");
    wire.after(moving);
    const began = performance.now();
    const draw = (now) => {
      const time = Math.min(1, Math.max(0, now - began) / SWING_MS);
      const eased = time * time * (3 - 2 * time);
      const start = between(ends[0], earlier, isBack ? 1 - eased : eased);
      const [x, y] = between(start, ends[1], 0.5);
      moving.setAttribute("d", `M${start}Q${x} ${y + 0.15 * Math.abs(start[0] - ends[1][0])} ${ends[1]}`);
      if (time < 1 && moving.isConnected) requestAnimationFrame(draw);
      else moving.remove();
    };
    requestAnimationFrame(draw);
  }
}
