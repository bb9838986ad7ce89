// The Masks tab in the browser: one schedule, another beside it, cells switched by hand, what that costs at once.

import { same } from "./edits.js";
import { KeepMap } from "./map.js";
import { cost, pack, unpack } from "./schedule.js";

const percent = (share) => `${(100 * share).toFixed(1)} %`;

export function mountMask({ element, props, watch }) {
  const [tiles, word] = [".tiles", ".edited"].map((name) => element.querySelector(name));
  let given = null; // what Python said
  let keep = null; // of the moment
  let against = null;
  const map = new KeepMap(element, props.library, (changed) => show(changed ?? given.keep), () => {});

  function show(changed) {
    keep = changed;
    const { graph, timesteps, figure, versus } = given;
    map.show({ graph, keep, base: given.keep, timesteps, against, figure: against ? versus : figure });
    word.hidden = keep === given.keep;
    count();
  }

  /** What it costs, and what the other costs. */
  function count() {
    const units = given.graph.units.length;
    const there = (value) => `${value} in ${given.other.name}`;
    const kept = percent(cost(given.graph, keep).kept);
    const rows = [["MACs kept", kept, given.other && there(percent(given.other.kept))]];
    const told = { "cells computed": (table) => sum(table).toLocaleString("en"), "calls entered": (table) => entered(table, units) };
    for (const [name, of] of Object.entries(told)) rows.push([name, of(keep), against && there(of(against))]);
    if (given.other && !against) rows.push(["cells that differ", "–", "the other has other units or calls: only what they cost and draw can be compared"]);
    if (against) rows.push(["cells that differ", sum(keep.map((bit, index) => bit ^ against[index])).toLocaleString("en"), differing(units)]);
    tiles.replaceChildren(...rows.map(([name, value, note]) => tile(name, value, note ?? "")));
  }

  /** Where they differ most. */
  function differing(units) {
    const count = (size, at) => Array.from({ length: size }, (_, one) => keep.reduce((many, bit, index) => many + (at(index) === one && bit !== against[index]), 0));
    const most = (counts) => counts.indexOf(Math.max(...counts));
    const [calls, columns] = [count(keep.length / units, (index) => Math.floor(index / units)), count(units, (index) => index % units)];
    if (!sum(calls)) return "nowhere: they are the same";
    return `most at call ${most(calls)} (${Math.max(...calls)}) and in ${given.graph.units[most(columns)].name} (${Math.max(...columns)})`;
  }

  function take() {
    const { value } = props;
    element.classList.toggle("absent", !value);
    if (!value) return void (given = keep = null);
    const size = value.timesteps.length * value.graph.units.length;
    const [before, own] = [given?.keep, keep];
    given = { ...JSON.parse(JSON.stringify(value)), keep: unpack(value.keep, size) };
    against = value.other?.keep ? unpack(value.other.keep, size) : null;
    show(before !== own && same(before, given.keep) ? own : given.keep); // what was switched stays beside another one
  }

  window.explorerMask = () => (keep && keep !== given.keep ? pack(keep) : ""); // for Python, where something is done with it
  watch("value", take);
  take();
}

const sum = (table) => table.reduce((many, bit) => many + bit, 0);

function entered(table, units) {
  const calls = table.length / units;
  const runs = Array.from({ length: calls }, (_, call) => table.subarray(call * units, (call + 1) * units).some(Boolean));
  return `${runs.filter(Boolean).length} of ${calls}`;
}

/** Text only: names are those of a file. */
function tile(name, value, note) {
  const box = document.createElement("div");
  const [term, ...told] = ["dt", "dd", "dd"].map((kind) => document.createElement(kind));
  [term, ...told].forEach((part, index) => (part.textContent = [name, value, note][index]));
  box.append(term, ...told);
  return box;
}
