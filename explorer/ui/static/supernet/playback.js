// Follows the data through the drawing: a dot walks along the wires, in the order in which the blocks are computed.

import { STATUS } from "../schedule.js";

const BLOCK_MS = 170; // from one block to the next

export class Playback {
  constructor(drawing, onEnd) {
    Object.assign(this, { drawing, onEnd, at: 0, frame: null });
  }

  /** List the blocks that are computed, and those that hand on what they kept, in running order. */
  get stops() {
    const { status } = this.drawing.choice;
    return Array.from(status.keys()).filter((index) => [STATUS.computed, STATUS.reused].includes(status[index]));
  }

  get isPlaying() {
    return this.frame !== null;
  }

  play() {
    if (this.at >= this.stops.length) this.at = 0;
    let begun = null;
    const jumps = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const walk = (now) => {
      begun ??= now;
      const part = (now - begun) / BLOCK_MS;
      this.place(this.stops[this.at], jumps ? 1 : Math.min(1, part));
      if (part >= 1) [begun, this.at] = [now, this.at + 1];
      this.frame = this.at < this.stops.length ? requestAnimationFrame(walk) : null;
      if (!this.frame) this.stop();
    };
    this.frame = requestAnimationFrame(walk);
  }

  /** Go on by one block. */
  step() {
    this.pause();
    if (this.at >= this.stops.length) this.at = 0;
    this.place(this.stops[this.at++], 1);
  }

  pause() {
    cancelAnimationFrame(this.frame);
    this.frame = null;
  }

  stop() {
    this.pause();
    this.at = 0;
    this.drawing.packet.setAttribute("visibility", "hidden");
    this.light(-1);
    this.onEnd();
  }

  /** Put the dot on the way into a block. */
  place(index, part) {
    const { drawing } = this;
    const wire = this.wireInto(index);
    const block = drawing.layout.blocks[index];
    const { x, y } = wire ? wire.getPointAtLength(part * wire.getTotalLength()) : { x: block.x, y: block.y + block.height / 2 };
    drawing.packet.setAttribute("visibility", "visible");
    drawing.packet.setAttribute("cx", x);
    drawing.packet.setAttribute("cy", y);
    this.light(part > 0.6 ? index : this.lit);
  }

  /** Find the wire along which a block gets what it works on: its second one, the last of its first ones, or the picture so far. */
  wireInto(index) {
    const { choice, svg } = this.drawing;
    const [call, unit] = [Math.floor(index / choice.width), index % choice.width];
    if (choice.status[index] === STATUS.reused) return svg.querySelector(`.backup[data-call="${call}"][data-unit="${unit}"]`);
    const own = svg.querySelectorAll(`.wire[data-call="${call}"][data-to="${unit}"]`);
    return [...own].at(-1) ?? svg.querySelector(`.flow[data-call="${call}"]`);
  }

  light(index) {
    if (index === this.lit) return;
    this.drawing.blocks[this.lit]?.classList.remove("active");
    this.drawing.blocks[index]?.classList.add("active");
    this.lit = index;
  }
}
