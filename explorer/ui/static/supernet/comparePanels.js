// The last scenes: what the published search leaves of fifty calls and who is as close at the same cost, and thinner networks.

import { unpack } from "../schedule.js";
import { bars } from "./parts.js";
import { showTile, tileMarkup, tileOf } from "./sheets.js";
import { say } from "./texts.js";

const SCALE = [0, 40]; // dB

export function surprise(lesson, box) {
  const { fifty, graph } = lesson.data;
  const [width, keep] = [graph.units.length, unpack(fifty.keep, fifty.calls * graph.units.length)];
  const rows = Array.from({ length: fifty.calls }, (_, call) => keep.subarray(call * width, (call + 1) * width));
  const counts = { calls: fifty.calls, whole: rows.filter((row) => row.every(Boolean)).length, none: rows.filter((row) => !row.some(Boolean)).length };
  const said = say("fiftyCounts", { ...counts, partial: fifty.calls - counts.whole - counts.none });
  const cell = (bit, unit, call) => (bit ? `<rect x="${call * 10 + 1}" y="${unit * 10 + 1}" width="8" height="8"/>` : "");
  const cells = rows.map((row, call) => Array.from(row, (bit, unit) => cell(bit, unit, call)).join("")).join("");
  const { titles, hues } = lesson.props;
  const ranked = Object.entries(fifty.psnr).sort(([, one], [, other]) => other[0] - one[0]);
  const entry = ([name, [value, low, high]]) => ({ label: `${titles[name] ?? name}<small>${say(`kind_${name}`)}</small>`, value, low, high, hue: hues[name], note: say("db", { value: value.toFixed(1) }) });
  const shown = [[say("full"), ""], ...Object.entries(fifty.shown).map(([name, psnr]) => [titles[name] ?? name, say("db", { value: psnr.toFixed(1) })])];
  box.innerHTML = `<figure class="fifty"><svg viewBox="0 0 ${10 * fifty.calls} ${10 * width}" role="img" aria-label="${said}"><rect class="ground" width="100%" height="100%"/>${cells}</svg><figcaption class="said">${said}</figcaption><p><a href="?tab=masks&mask=${lesson.data.model}/dipgo-published-ddim-${fifty.calls}">${say("masksTab")}</a></p></figure>
    <div><p class="note">${say("fiftyBars", { count: fifty.num_scenes })}</p>${bars(ranked.map(entry), ...SCALE)}<p class="note">${say("fiftyWhy")}</p></div>
    <div class="fifty-pictures"><p class="note">${say("fiftyPictures", fifty.scene)}</p>${shown.map(([title, psnr]) => `<figure>${tileMarkup(title)}<figcaption><b>${title}</b><br/>${psnr}</figcaption></figure>`).join("")}</div>`;
  box.querySelectorAll(".tile").forEach((tile, index) => showTile(tile, tileOf(null, "fifty", index, shown.length)));
  return { wires: false, clickable: false };
}

export function widths(lesson, box) {
  const { widths: facts } = lesson.data;
  const count = facts.methods.length + 1;
  const left = ({ left }) => Object.entries(left).map(([kind, [kept, all]]) => say("widthsLeft", { kept: kept.toLocaleString("en"), all: all.toLocaleString("en"), kind: say(kind) })).join(", ");
  const card = (title, note) => `<figure>${tileMarkup(title)}<figcaption><b>${title}</b><br/>${note}</figcaption></figure>`;
  const cards = facts.methods.map((one) => card(lesson.props.titles[one.name] ?? one.name, `${say("db", { value: one.psnr })}<br/>${left(one)}`));
  box.innerHTML = `<div class="widths-cards">${card(say("widthsOriginal"), `${facts.prompt}`)}${cards.join("")}</div><p><a href="?tab=widths">${say("widthsTab")}</a></p>`;
  box.querySelectorAll(".tile").forEach((tile, index) => showTile(tile, tileOf(null, "widths", index, count)));
  return { wires: false, clickable: false };
}
