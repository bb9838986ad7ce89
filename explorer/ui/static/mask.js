// The Masks tab in the browser: one schedule, another to compare with, cells edited by hand, and what that costs.

import { Heatmap } from "./heatmap.js";
import { cost, pack, unpack } from "./schedule.js";
import { giga, percent } from "./text.js";
import { same } from "./undo.js";


export function mountMask({ element, props, watch }) {
  const [tiles, note] = [".tiles", ".edited-note"].map((name) => element.querySelector(name));
  let given = null; // what Python sent, its bits decoded
  let keep = null; // what is shown
  let against = null;
  const heatmap = new Heatmap(element, props, (edited) => show(edited ?? given.keep), () => {});

  function show(shown) {
    keep = shown;
    const { graph, timesteps } = given;
    heatmap.show({ graph, keep, base: given.keep, timesteps, against, legend: "file" });
    note.hidden = keep === given.keep;
    tiles.replaceChildren(...tileRows({ graph, keep, against, other: given.other }).map((row) => makeTile(...row)));
  }

  function receive() {
    const { value } = props;
    element.classList.toggle("hidden", !value);
    if (!value) return void (given = keep = null);
    const size = value.timesteps.length * value.graph.units.length;
    const [before, edited] = [given?.keep, keep];
    given = { ...JSON.parse(JSON.stringify(value)), keep: unpack(value.keep, size) };
    against = value.other?.keep ? unpack(value.other.keep, size) : null;
    show(before !== edited && same(before, given.keep) ? edited : given.keep); // edits stay while another file is compared
  }

  window.explorerManualMask = () => (keep && keep !== given.keep ? pack(keep) : ""); // for Python, which acts on it
  watch("value", receive);
  receive();
}

/** List name, value and note of each tile: what it costs, what the other costs, where they differ. */
function tileRows({ graph, keep, against, other }) {
  const units = graph.units.length;
  const ofOther = (value) => `${value} in ${other.name}`;
  const counted = { "cells computed": (table) => sum(table).toLocaleString("en"), "calls that run": (table) => callsEntered(table, units) };
  const { kept, total } = cost(graph, keep);
  const inPass = `${giga(total)} of ${giga(total / kept)} GMACs in each pass`; // guidance makes two
  const rows = [["arithmetic left", percent(kept, 1), other ? ofOther(percent(other.kept, 1)) : inPass]];
  for (const [name, count] of Object.entries(counted)) rows.push([name, count(keep), against && ofOther(count(against))]);
  if (other && !against) rows.push(["cells that differ", "–", "the other has other units or calls: only cost and pictures can be compared"]);
  if (against) rows.push(["cells that differ", sum(keep.map((bit, index) => bit ^ against[index])).toLocaleString("en"), whereTheyDiffer(graph, keep, against)]);
  return rows;
}

function whereTheyDiffer(graph, keep, against) {
  const units = graph.units.length;
  const count = (size, at) => Array.from({ length: size }, (_, one) => keep.reduce((total, bit, index) => total + (at(index) === one && bit !== against[index]), 0));
  const most = (counts) => counts.indexOf(Math.max(...counts));
  const [calls, columns] = [count(keep.length / units, (index) => Math.floor(index / units)), count(units, (index) => index % units)];
  if (!sum(calls)) return "nowhere: they are the same";
  return `most at call ${most(calls)} (${Math.max(...calls)}) and in ${graph.units[most(columns)].name} (${Math.max(...columns)})`;
}

const sum = (table) => table.reduce((total, bit) => total + bit, 0);

function callsEntered(table, units) {
  const calls = table.length / units;
  const runs = Array.from({ length: calls }, (_, call) => table.subarray(call * units, (call + 1) * units).some(Boolean));
  return `${runs.filter(Boolean).length} of ${calls}`;
}

/** Make a tile of text only: names are those of a file. */
function makeTile(name, value, note) {
  const box = document.createElement("div");
  for (const [kind, text] of [["dt", name], ["dd", value], ["dd", note ?? ""]]) box.append(Object.assign(document.createElement(kind), { textContent: text }));
  return box;
}
