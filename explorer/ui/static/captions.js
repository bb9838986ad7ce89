// What is said beside the pictures: facts of each, the cost, what a schedule comes down to, who wins. Numbers in, markup out.
// Whatever a visitor typed is escaped.

import { cost, unpack } from "./schedule.js";

const NOTHING = "–";
const SAFE = 0.05; // of retrieval: what may be lost before it "hurts"
const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}%`;
const escaped = (text) => String(text).replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
const giga = (macs) => (macs < 1e12 ? Number((macs / 1e9).toPrecision(3)) : Math.round(macs / 1e9)).toLocaleString("en");
const between = ([mean, low, high], digits) => `${mean.toFixed(digits)} [${low.toFixed(digits)}, ${high.toFixed(digits)}]`;
const term = (word, meaning) => `<abbr title="${meaning}" tabindex="0">${word}</abbr>`;

const SSIM = term("SSIM", "Structural similarity to the original: 1 is the same picture.");
const PSNR = term("PSNR", "Distance to the original in decibels, inside the drawing's box: every 6 dB halve the error; above 40 nobody sees it.");
const MACS = term("MACs", "Multiply-accumulate operations: the arithmetic that the network does.");

const NAMED = "How often a second network, which never taught the first, finds the right name among its five first guesses.";
const RETRIEVAL = term("name in its top 5", NAMED);
const CLIP = term("CLIP score", "How near picture and prompt are for that second network: 100 times the cosine of their features.");

const TITLES = { original: "Original", pruned: "Pruned", rival: "Same cost, fewer steps" };

/** The method that is nearest to the full run at a stop, on average over the gallery. */
export function winner(table, stop) {
  if (stop < 0) return undefined;
  const standing = Object.keys(table.methods).filter((name) => table.methods[name].stops[stop]);
  return standing.sort((a, b) => psnr(table, b, stop) - psnr(table, a, stop))[0];
}

const psnr = (table, name, stop) => table.methods[name].stops[stop].means.psnr[0];

/** Title, words and facts of the three pictures. */
export function cards({ table, at, state, rival }) {
  return Object.fromEntries(
    Object.entries(TITLES).map(([role, title]) => {
      if (state.drawn) return [role, drawn(title, state.drawn.cards[role])];
      if (at) return [role, fromGallery(table, at, role, title, rival)];
      return [role, { title, what: "Press Draw", facts: facts(), empty: true }];
    }),
  );
}

function facts(kept, seconds, ssim, db) {
  return [
    [`${MACS} kept`, kept === undefined ? NOTHING : percent(kept, 1)],
    ["seconds", seconds === undefined ? NOTHING : seconds.toFixed(2)],
    [SSIM, ssim === undefined || ssim === null ? NOTHING : ssim.toFixed(3)],
    [PSNR, db === undefined || db === null ? NOTHING : db >= 65 ? "same" : `${db.toFixed(1)} dB`],
  ];
}

function drawn(title, card) {
  const done = card.done ? 1 : card.call / card.calls;
  return {
    title,
    what: card.what,
    done,
    counter: card.call && !card.done ? `call ${card.call} of ${card.calls}` : "",
    facts: facts(card.kept ?? undefined, card.call ? card.seconds : undefined, card.ssim, card.psnr),
    empty: !card.picture,
  };
}

function fromGallery(table, at, role, title, rival) {
  const whole = { title, what: `${table.sampler.toUpperCase()}, ${table.steps} calls`, facts: facts(1, table.original.seconds, 1, 100) };
  if (role === "original" || at.stop < 0) return whole;
  const { title: name, stops } = table.methods[role === "rival" ? rival : at.method];
  const stop = stops[at.stop];
  if (!stop) return { title, what: `${name} cannot remove ${percent(table.ratios[at.stop])}`, facts: facts(), empty: true };
  const what = role === "rival" ? `${name}: ${stop.steps}` : `${name}, ${percent(1 - stop.kept)} of the MACs skipped`;
  return { title, what, facts: facts(stop.kept, stop.seconds, stop.each.ssim[at.scene], stop.each.psnr[at.scene]) };
}

/** The cost in numbers. */
export function tiles({ table, at, state, plan }) {
  let found = [];
  if (at) found = galleryTiles(table, at, state);
  else if (plan && state.edited) {
    const { kept } = cost(plan.graph, state.edited);
    found = [
      ["removed", percent(1 - kept, 1), "by hand: press Draw to see it"],
      ["MACs kept", percent(kept, 1), `${giga(kept * plan.macs_total)} of ${giga(plan.macs_total)} G`],
    ];
  } else if (plan) {
    const asked = plan.asked === null ? NOTHING : percent(plan.asked, 1);
    found = [
      ["asked", asked, plan.asked === null ? "the settings name the schedule" : "of the MACs to remove"],
      ["reached", percent(plan.reached, 1), `at most ${percent(plan.max_ratio, 1)} is possible`],
      ["MACs kept", percent(plan.kept, 1), `${giga(plan.macs_kept)} of ${giga(plan.macs_total)} G`],
      ["same cost", `${plan.rival_steps} steps`, `${plan.rival_sampler.toUpperCase()}, ${percent(plan.rival_kept, 1)} of MACs`],
    ];
  }
  return found.map(([name, value, note]) => `<div><dt>${name}</dt><dd>${value}</dd><dd>${note}</dd></div>`).join("");
}

function galleryTiles(table, at, state) {
  const method = table.methods[at.method];
  const graph = table.graphs[method.granularity];
  const stop = at.stop < 0 ? null : method.stops[at.stop];
  const perCall = graph.units.reduce((sum, unit) => sum + unit.macs, graph.macs_fixed);
  const whole = perCall * table.timesteps.length;
  const kept = state.edited ? cost(graph, state.edited).kept : stop ? stop.kept : 1;
  const found = [
    ["removed", percent(1 - kept, 1), state.edited ? "by hand: press Draw to see it" : "of the trajectory's MACs"],
    ["MACs kept", percent(kept, 1), `${giga(kept * whole)} of ${giga(whole)} G`],
  ];
  if (state.edited || !stop) return found;
  const [times, low, high] = stop.speedup;
  const n = table.scenes.length;
  return [
    ...found,
    ["measured speed", `${times.toFixed(2)}×`, `${low.toFixed(2)} to ${high.toFixed(2)}; ideal is ${(1 / stop.kept).toFixed(2)}×`],
    ["all scenes", `${stop.means.psnr[0].toFixed(1)} dB`, `95 % ${stop.means.psnr.slice(1).map((v) => v.toFixed(1)).join(" to ")}, n = ${n}`],
    ...judged(stop, at.scene, n),
  ];
}

/** What a second network makes of the pictures, which never taught the first; nothing where nobody judged. */
function judged(stop, scene, n) {
  const { clip, top5 } = stop.means;
  if (!clip || !top5) return [];
  const { clip: each, rank } = stop.each;
  return [
    [RETRIEVAL, percent(top5[0]), `here the right name comes ${ordinal(rank[scene] + 1)}; n = ${n}`],
    [CLIP, clip[0].toFixed(1), `95 % ${clip.slice(1).map((v) => v.toFixed(1)).join(" to ")}; here ${each[scene].toFixed(1)}`],
  ];
}

const ordinal = (place) => `${place}${["th", "st", "nd", "rd"][place % 100 > 10 && place % 100 < 14 ? 0 : place % 10] ?? "th"}`;

/** In sentences: what the schedule comes down to, where it starts to hurt, who wins at this cost. */
export function words(shown) {
  const said = [amounts(shown), hurts(shown), wins(shown)].filter(Boolean);
  return said.map((sentence) => `<p>${sentence}</p>`).join("");
}

function amounts({ table, at, state, plan }) {
  if (!at && !plan) return "";
  const method = at && table.methods[at.method];
  const graph = at ? table.graphs[method.granularity] : plan.graph;
  const timesteps = at ? table.timesteps : plan.timesteps;
  const stop = at && at.stop >= 0 && method.stops[at.stop];
  if (at && !state.edited && at.stop < 0) return "Nothing is left out: this is the full run.";
  if (at && !state.edited && !stop) return "";
  const size = timesteps.length * graph.units.length;
  const keep = state.edited ?? unpack(at ? stop.keep : plan.keep, size);
  return comesDownTo(graph, keep, timesteps.length, at ? method.order : plan.order, at ? table.sampler : plan.sampler);
}

/** Whole calls, a DeepCache-like rhythm, or units that go their own ways. */
export function comesDownTo(graph, keep, calls, order, sampler) {
  const width = graph.units.length;
  const rows = Array.from({ length: calls }, (_, call) => Array.from(keep.subarray(call * width, (call + 1) * width)));
  const counts = rows.map((row) => row.filter(Boolean).length);
  const whole = counts.filter((count) => count === width).length;
  const none = counts.filter((count) => count === 0).length;
  if (whole === calls) return "Nothing is left out: this is the full run.";
  if (whole + none === calls) {
    const plain = `Computes ${whole} of ${calls} calls whole and skips the others`;
    if (sampler === "ddim" && !order)
      return `${plain}: under DDIM that <b>is</b> a sampler of ${whole} steps that visits just these timesteps.`;
    return order ? `${plain}, where the estimate of the noise is extrapolated from the calls before.` : `${plain}, where the last estimate serves again.`;
  }
  const partial = new Set(rows.filter((_, call) => counts[call] && counts[call] < width).map((row) => row.join("")));
  if (partial.size === 1 && !none) {
    const [row] = partial;
    const kept = graph.units.filter((_, unit) => row[unit] === "1").map((unit) => unit.name.replaceAll("_blocks", "").replaceAll(".", " "));
    return `Keeps ${list(kept)} at every call and the rest at ${whole} of ${calls}: the pattern of DeepCache.`;
  }
  const often = graph.units.map((unit, column) => [unit.name, rows.filter((row) => row[column]).length]).sort((a, b) => b[1] - a[1]);
  const [most, least] = [often[0], often.at(-1)].map(([name, count]) => `<code>${escaped(name)}</code> ${count}`);
  return `Of ${calls} calls, ${whole} are computed whole, ${calls - whole - none} in part and ${none} not at all. Most often runs ${most} times, least often ${least} times.`;
}

const list = (names) => (names.length > 3 ? `${names.length} of the units` : names.join(" and "));

function hurts({ table, at, state }) {
  if (!at || state.edited) return "";
  const zone = safe(table, at.method);
  const top5 = percent(table.original.means.top5[0]);
  if (zone === null) return "";
  return `Up to <b>${percent(zone)}</b> removed, ${term("retrieval", NAMED)} falls by less than ${100 * SAFE} points from the ${top5} of the full run.`;
}

/** The largest stop up to which retrieval falls by less than SAFE; null where it is not known. */
export function safe(table, name) {
  const floor = table.original.means.top5?.[0] - SAFE;
  if (Number.isNaN(floor)) return null;
  let zone = 0;
  for (const [index, stop] of table.methods[name].stops.entries()) {
    if (!stop || stop.means.top5[0] < floor) break;
    zone = table.ratios[index];
  }
  return zone;
}

function wins({ table, at, state }) {
  if (!at || at.stop < 0 || state.edited) return "";
  const found = table.first[at.stop];
  if (!found) return "";
  const [first, over] = [found.method, found.over].map((name) => table.methods[name].title);
  if (Math.abs(found.by[0]) < 0.05) return `At this cost <b>${escaped(first)}</b> and <b>${escaped(over)}</b> are equally near to the full run.`;
  const sure = found.by[1] > 0 ? "" : ", which may be luck";
  const own = at.method === found.method ? "" : ` <b>${escaped(table.methods[at.method].title)} does not win here.</b>`;
  return `At this cost <b>${escaped(first)}</b> is nearest to the full run: ${between(found.by, 1)} dB ahead of ${escaped(over)}, nearer for ${found.higher} of ${found.n} pictures${sure}.${own}`;
}
