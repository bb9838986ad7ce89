// Draws the map of a schedule on a canvas: a row per unit, a column per call, bars of their shares at the margins, and at
// the left a sketch of the network: the wider a bar, the more pixels its layer works on.

import { placeOf } from "./mapModel.js";

const [TOP, BOTTOM, LEFT, RIGHT] = [30, 36, 64, 30]; // around the cells, in CSS pixels: bars, ticks, sketch, bars
const [ROW_MIN, ROW_MAX, ROWS_HEIGHT, STAGE_GAP] = [5, 26, 308, 3];
const [SKETCH_LEFT, SKETCH_WIDTH] = [16, 42];
const TICK_STEPS = [1, 2, 5, 10, 20, 50, 100, 200];
const [MIN_TICK_DISTANCE, LONG] = [28, 120]; // more calls than LONG have no gaps between them
// cividis, which is as good for the colour-blind; Nunez et al., 2018
const CIVIDIS = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"];

/** Find the colour of a place between 0 and 1. */
export function colourAt(share) {
  const place = share * (CIVIDIS.length - 1);
  const [from, to] = [CIVIDIS[Math.floor(place)], CIVIDIS[Math.ceil(place)]];
  const channel = (at) => {
    const [one, other] = [from, to].map((colour) => parseInt(colour.slice(at, at + 2), 16));
    return Math.round(one + (other - one) * (place % 1));
  };
  return `rgb(${channel(1)},${channel(3)},${channel(5)})`;
}
export const SCALE_CSS = `linear-gradient(90deg, ${CIVIDIS.join(", ")})`;

/** Compute where everything is in a box of this width. */
export function placesOf(map, width) {
  const rowHeight = Math.min(ROW_MAX, Math.max(ROW_MIN, Math.floor(ROWS_HEIGHT / map.units.length)));
  const tops = [];
  let top = TOP;
  map.units.forEach((_, unit) => {
    const [here, before] = [placeOf(map.units, unit), unit && placeOf(map.units, unit - 1)];
    if (unit && (here.group !== before.group || here.stage !== before.stage)) top += STAGE_GAP;
    tops.push(top);
    top += rowHeight;
  });
  const cell = (width - LEFT - RIGHT) / map.timesteps.length;
  return { width, height: top + BOTTOM, left: LEFT, right: width - RIGHT, cell, rowHeight, tops, bottom: top };
}

/** Find what lies under a point: { call, unit } of a cell, one of them alone for a bar or a layer of the sketch, or null. */
export function hitTest(places, x, y) {
  const { left, right, cell, tops, rowHeight, bottom } = places;
  const call = x >= left && x < right ? Math.floor((x - left) / cell) : undefined;
  const row = tops.findLastIndex((top) => y >= top);
  const unit = row >= 0 && y < bottom && y < tops[row] + rowHeight + STAGE_GAP ? row : undefined;
  if (call !== undefined && unit !== undefined) return { call, unit };
  if (unit !== undefined) return x < left ? { unit, isName: true } : { unit };
  return call !== undefined && y < tops[0] ? { call } : null;
}

/** Draw the map; `inks`: the colours of the page. */
export function drawMap(canvas, map, places, inks) {
  const scale = window.devicePixelRatio || 1;
  [canvas.width, canvas.height] = [places.width * scale, places.height * scale].map(Math.round);
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  const looks = makeLooks(pen, inks);
  drawCells(pen, map, places, looks);
  drawBars(pen, map, places, inks);
  drawSketch(pen, map, places, inks);
  drawTicks(pen, map, places, inks);
}

function drawCells(pen, { units, timesteps, status, legend, scale }, { left, cell, tops, rowHeight }, looks) {
  const gap = timesteps.length > LONG ? 0 : Math.min(1, cell / 4);
  timesteps.forEach((_, call) => {
    const x = left + call * cell;
    units.forEach((_, unit) => {
      const index = call * units.length + unit;
      const box = [x, tops[unit], Math.max(0.5, cell - gap), rowHeight - 1];
      if (!scale) return looks[legend[status[index]].look](...box);
      pen.fillStyle = colourAt(scale.at(index));
      pen.fillRect(...box);
    });
  });
}

/** Make the looks of cells, which differ without their colours too: full, hollow, hatched, pale. */
export function makeLooks(pen, { method, quiet, only, other }) {
  const full = (colour) => (...box) => {
    pen.fillStyle = colour;
    pen.fillRect(...box);
  };
  const hatch = pen.createPattern(hatchTile(quiet), "repeat");
  const hollow = (x, y, width, height) => {
    pen.globalAlpha = 0.22;
    full(method)(x, y, width, height);
    pen.globalAlpha = 1;
    pen.strokeStyle = method;
    pen.lineWidth = 1.4;
    pen.strokeRect(x + 0.7, y + 0.7, Math.max(0, width - 1.4), Math.max(0, height - 1.4));
  };
  const pale = (...box) => {
    pen.globalAlpha = 0.16;
    full(quiet)(...box);
    pen.globalAlpha = 1;
  };
  return { full: full(method), only: full(only), other: full(other), hollow, hatch: full(hatch), pale };
}

function hatchTile(colour) {
  const tile = Object.assign(document.createElement("canvas"), { width: 5, height: 5 });
  const pen = tile.getContext("2d");
  pen.strokeStyle = colour;
  pen.globalAlpha = 0.5;
  pen.lineWidth = 0.9;
  for (const shift of [-5, 0, 5]) {
    pen.moveTo(shift, 5);
    pen.lineTo(shift + 5, 0);
  }
  pen.stroke();
  return tile;
}

function drawBars(pen, { callShares, unitShares }, { left, right, cell, tops, rowHeight }, { method }) {
  pen.fillStyle = method;
  callShares.forEach((share, call) => pen.fillRect(left + call * cell, TOP - 4 - (TOP - 6) * share, Math.max(0.5, cell - 1), (TOP - 6) * share));
  unitShares.forEach((share, unit) => pen.fillRect(right + 4, tops[unit], (RIGHT - 6) * share, rowHeight - 1));
}

function drawSketch(pen, { units }, { tops, rowHeight }, { text, quiet, font }) {
  const groups = new Map();
  const deepest = Math.max(1, ...units.map((_, unit) => placeOf(units, unit).depth));
  units.forEach((_, unit) => {
    const { group, depth, sampler } = placeOf(units, unit);
    groups.set(group, [groups.get(group)?.[0] ?? tops[unit], tops[unit] + rowHeight]);
    const width = SKETCH_WIDTH * (1 - (0.72 * depth) / deepest);
    pen.fillStyle = quiet;
    pen.globalAlpha = sampler ? 0.9 : 0.55;
    pen.beginPath();
    const [x, y, height] = [SKETCH_LEFT + (SKETCH_WIDTH - width) / 2, tops[unit], Math.max(2, rowHeight - 2)];
    if (!sampler) pen.roundRect(x, y, width, height, 2);
    else sketchSampler(pen, x, y, width, height, sampler);
    pen.fill();
  });
  pen.globalAlpha = 1;
  pen.fillStyle = text;
  pen.font = `600 13px ${font}`;
  pen.textAlign = "center";
  for (const [group, [from, to]] of groups) {
    pen.save();
    pen.translate(10, (from + to) / 2);
    pen.rotate(-Math.PI / 2);
    if (to - from > pen.measureText(group).width * 0.6) pen.fillText(group, 0, 0);
    pen.restore();
  }
}

/** Draw a layer that halves or doubles the number of pixels per side as a trapezium. */
function sketchSampler(pen, x, y, width, height, direction) {
  const [upper, lower] = direction === "down" ? [0, width * 0.12] : [width * 0.12, 0];
  pen.moveTo(x + upper, y);
  pen.lineTo(x + width - upper, y);
  pen.lineTo(x + width - lower, y + height);
  pen.lineTo(x + lower, y + height);
}

function drawTicks(pen, { timesteps }, { left, right, cell, bottom }, { subdued, font }) {
  const step = TICK_STEPS.find((one) => one * cell >= MIN_TICK_DISTANCE) ?? 500;
  pen.fillStyle = subdued;
  pen.font = `13px ${font}`;
  pen.textAlign = "center";
  for (let call = 0; call < timesteps.length; call += step) pen.fillText(call, left + (call + 0.5) * cell, bottom + 14);
  pen.textAlign = "left";
  pen.fillText("call 0: pure noise", left, bottom + 31);
  pen.textAlign = "right";
  pen.fillText("picture", right, bottom + 31);
}
