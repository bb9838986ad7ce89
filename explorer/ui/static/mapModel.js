// What the map of a schedule shows, without drawing it: the status of each cell, the shares of calls and units, words.

import { compare, cost, statusOf } from "./schedule.js";
import { fillIn, percent } from "./text.js";

/** Gather what is drawn. shown: { graph, keep, against, timesteps, values, what, ratio, legend }: `against` is another
 * schedule to compare with; `values` are shown in place of the decisions, where `what` is "removal_ratio" or "score";
 * `legend` names the words in `style`, which Python sends. Tables are flat, call by call. */
export function mapOf(shown, style) {
  const { graph, keep, against, timesteps, values = null, what, ratio } = shown;
  const legend = style.legends[against ? "comparison" : shown.legend];
  const width = graph.units.length;
  const { status, sourceCall, counts } = against ? compare(keep, against) : statusOf(graph, keep);
  const spent = cost(graph, keep);
  const describe = (call, unit) =>
    fillIn(legend.cell, {
      unit: graph.units[unit].name,
      call,
      timestep: Number(timesteps[call].toPrecision(6)),
      share: percent(graph.units[unit].macs / spent.perCall, 1),
      status: fillIn(legend.sentences[status[call * width + unit]], { source: sourceCall?.[call * width + unit] }),
    });
  return {
    ...{ units: graph.units, timesteps, status, describe },
    legend: legend.names.map((name, index) => ({ name, look: legend.looks[index], count: counts[index] })),
    callShares: Array.from(spent.calls, (macs) => macs / spent.perCall),
    unitShares: Array.from(spent.units, (macs, unit) => macs / (graph.units[unit].macs * timesteps.length || 1)),
    scale: values && scaleOf(values, what, ratio),
  };
}

/** Give values a place on a colour scale, from 0 to 1, and say what its ends and its mark mean. */
function scaleOf(values, what, ratio = 0) {
  if (what === "removal_ratio") {
    const percent = Math.round(100 * ratio);
    return { at: (index) => Math.min(1, values[index]), ends: ["goes first", "stays longest"], mark: ratio, note: `${percent} % of the MACs are gone` };
  }
  const finite = Array.from(values).filter(Number.isFinite);
  const [low, high] = [Math.min(...finite), Math.max(...finite)];
  const at = (index) => (values[index] === Infinity ? 1 : (values[index] - low) / (high - low || 1));
  return { at, ends: ["unimportant", "important"], note: "what the method expects a cell to be worth" };
}

/** List the calls in which a unit has a status, as ranges: "0, 4, 8 to 12". */
export function callsWith({ units, timesteps, status }, unit, wanted) {
  const calls = timesteps.map((_, call) => call).filter((call) => status[call * units.length + unit] === wanted);
  const ranges = [];
  for (const call of calls) {
    if (ranges.at(-1)?.[1] === call - 1) ranges.at(-1)[1] = call;
    else ranges.push([call, call]);
  }
  return ranges.map(([first, last]) => (first === last ? `${first}` : `${first} to ${last}`)).join(", ");
}

/** Find where a unit is: { group: "down", stage: 1, depth: 1, sampler: "down" | "up" | undefined }; depth is counted from the
 * outermost stage. A transformer has one group. */
export function placeOf(units, unit) {
  const [, group, number] = /^(down|up)_blocks\.(\d+)/.exec(units[unit].name) ?? [];
  const sampler = /samplers/.test(units[unit].name) ? group : undefined;
  const stages = 1 + Math.max(0, ...units.map(({ name }) => Number(/^(?:down|up)_blocks\.(\d+)/.exec(name)?.[1] ?? 0)));
  if (group) return { group, stage: Number(number), depth: group === "down" ? Number(number) : stages - 1 - Number(number), sampler };
  return /^mid_block/.test(units[unit].name) ? { group: "mid", stage: 0, depth: stages - 0.5 } : { group: "blocks", stage: 0, depth: 0 };
}
