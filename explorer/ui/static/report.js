// The report as one picture: the pictures that are shown, the map, the numbers, the link. Always dark on white, for paper.

import { unpack } from "./schedule.js";

const [WIDTH, MARGIN, LINE] = [1200, 48, 26];
const INK = "#1f2937";
const PALE = "#4b5563";
const [COMPUTED, SKIPPED] = ["#0072b2", "#d7dce3"];
const FONT = "system-ui, sans-serif";
const TITLES = { original: "Original", pruned: "This", other: "The other mask", baseline: "Same cost" };
const MAX_ROWS = 60; // of a map

/** Paint the report; returns a PNG. */
export async function paintReport({ title, rows, link, measured, map, report }) {
  const canvas = Object.assign(document.createElement("canvas"), { width: WIDTH, height: 4000 });
  const context = canvas.getContext("2d");
  Object.assign(context, { fillStyle: "#fff", textBaseline: "top" });
  context.fillRect(0, 0, canvas.width, canvas.height);
  let y = MARGIN;
  y = write(context, title, y, `600 30px ${FONT}`, 40);
  y = write(context, `“${report.request.prompt}”, seed ${report.request.seed}`, y, `20px ${FONT}`) + 12;
  y = paintPictures(context, measured.facts, y);
  y = map ? paintMap(context, map, y) : y;
  y = paintRows(context, rows, y) + 8;
  for (const text of [measured.note, versionsLine(report), link]) y = write(context, text, y, `16px ${FONT}`, 24, PALE);
  return await toPng(canvas, y + MARGIN);
}

/** Write a text within the margins, in as many lines as it needs; returns where the next one begins. */
function write(context, text, y, font, line = LINE, colour = INK) {
  Object.assign(context, { font, fillStyle: colour });
  let row = "";
  for (const letter of String(text)) {
    if (context.measureText(row + letter).width > WIDTH - 2 * MARGIN) {
      context.fillText(row, MARGIN, y);
      [row, y] = ["", y + line];
    }
    row += letter;
  }
  context.fillText(row, MARGIN, y);
  return y + line;
}

function paintPictures(context, facts, y) {
  const shown = Object.entries(facts).filter(([, fact]) => fact?.image);
  if (!shown.length) return y;
  const gap = 24;
  const size = Math.min(340, (WIDTH - 2 * MARGIN - gap * (shown.length - 1)) / shown.length);
  shown.forEach(([role, { image }], index) => {
    const x = MARGIN + index * (size + gap);
    context.drawImage(image, x, y, size, size);
    Object.assign(context, { font: `600 18px ${FONT}`, fillStyle: INK });
    context.fillText(TITLES[role] ?? role, x, y + size + 8);
  });
  return y + size + 48;
}

/** Paint which unit runs at which call, or which share of each layer stays. */
function paintMap(context, { units, calls, keep, shares }, y) {
  const names = (shares ? shares.map(([name]) => name) : units).slice(0, MAX_ROWS);
  const [left, height] = [MARGIN + 300, names.length > 30 ? 12 : 18];
  const room = WIDTH - MARGIN - left;
  const bits = shares ? null : unpack(keep, units.length * calls);
  y = write(context, shares ? "Share of each layer that stays" : "Which unit (row) runs at which call (column): blue runs, grey reuses an earlier value", y, `600 18px ${FONT}`, 30);
  names.forEach((name, row) => {
    const top = y + row * height;
    Object.assign(context, { font: `${height - 4}px ${FONT}`, fillStyle: PALE });
    context.fillText(name, MARGIN, top, left - MARGIN - 8);
    if (shares) {
      paintBox(context, SKIPPED, left, top, room, height - 2);
      paintBox(context, COMPUTED, left, top, room * shares[row][1], height - 2);
    } else {
      for (let call = 0; call < calls; call++) paintBox(context, bits[call * units.length + row] ? COMPUTED : SKIPPED, left + (call * room) / calls, top, Math.max(1, room / calls - 1), height - 1);
    }
  });
  y += names.length * height + 4;
  const hidden = (shares ?? units).length - names.length;
  return (hidden ? write(context, `and ${hidden} more`, y, `14px ${FONT}`, 20, PALE) : y) + 24;
}

function paintBox(context, colour, ...box) {
  context.fillStyle = colour;
  context.fillRect(...box);
}

function paintRows(context, rows, y) {
  const column = (WIDTH - 2 * MARGIN) / 4;
  rows.forEach((row, index) => {
    row.forEach((text, place) => {
      Object.assign(context, { font: `${index && place ? "" : "600 "}18px ${FONT}`, fillStyle: INK });
      context.fillText(text, MARGIN + place * column, y, column - 12);
    });
    y += 30;
  });
  return y;
}

function versionsLine({ made_with, file }) {
  const { model, pruner, versions } = file;
  return `${made_with}; ${pruner.name}, for ${model.id} (${model.denoiser}, weights ${model.revision ?? "unknown"}); ${Object.entries(versions).map((pair) => pair.join(" ")).join(", ")}`;
}

function toPng(canvas, height) {
  const page = Object.assign(document.createElement("canvas"), { width: WIDTH, height: Math.ceil(height) });
  page.getContext("2d").drawImage(canvas, 0, 0);
  return new Promise((resolve) => page.toBlob(resolve, "image/png"));
}
