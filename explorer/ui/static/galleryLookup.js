// Whether the gallery has the answer to the current request, and which controls stand for a part of the gallery.

import { parts, state, table } from "./state.js";

/** Find the current request in the gallery: { sample, method, ratioIndex }; null where it is not there. */
export function galleryHit() {
  const { request } = state;
  const fits = ["model", "sampler", "steps", "guidance"].every((name) => String(request[name]) === String(table?.[name]));
  const sample = fits ? findSample() : -1;
  if (sample < 0) return null;
  const ratioIndex = nearestRatioIndex();
  const method = Object.keys(table.methods).find((name) => matches(table.methods[name], ratioIndex));
  return method ? { sample, method, ratioIndex } : null;
}

/** Find the scene of the current prompt and seed; -1 where there is none. A scene without a prompt, of an unconditional
 * model, fits any. */
export const findSample = () => {
  const { prompt, seed } = state.request;
  return table?.samples.findIndex((one) => (!one.prompt || one.prompt === prompt?.trim()) && one.seed === Number(seed)) ?? -1;
};

/** List the controls' values that stand for a scene. */
export function controlsForSample(sample) {
  const { prompt, seed } = table.samples[sample];
  return prompt ? { prompt, seed } : { seed };
}

/** Find the ratio of the gallery nearest to the slider; -1 where nothing is left out. */
export function nearestRatioIndex() {
  const nearest = table.ratios.reduce((best, ratio, index) => (distance(ratio) < distance(table.ratios[best]) ? index : best), 0);
  return distance(0) < distance(table.ratios[nearest]) ? -1 : nearest;
}

const distance = (ratio) => Math.abs(ratio - Number(state.request.ratio));

/** Whether the controls name this method with its settings at this ratio; empty controls are the method's defaults. */
function matches({ method, settings, settings_at, granularity }, ratioIndex) {
  if (!granularity || method !== state.request.method) return false;
  const own = Object.entries(state.request).filter(([name]) => name.startsWith(`${method}.`));
  const choices = !settings_at ? [settings] : ratioIndex < 0 ? settings_at : [settings_at[ratioIndex]];
  return choices.some((choice) => own.every(([name, value]) => same(value, valueOf(choice, name))));
}

export const same = (one, other) => String(one ?? "") === String(other ?? "");
const valueOf = (settings, name) => settings[name.slice(name.indexOf(".") + 1)] ?? parts.view.props.defaults[name];

/** Whether all settings of the current method are at their defaults. */
export const hasDefaultSettings = () =>
  Object.entries(state.request).every(([name, value]) => !name.startsWith(`${state.request.method}.`) || same(value, valueOf({}, name)));

/** Name the baseline of the third card: the sampler of the control where the gallery has it. */
export const baselineMethod = () => (table.methods[`${state.request.baseline_sampler}-steps`] ? `${state.request.baseline_sampler}-steps` : "dpm++-steps");

/** List the controls' values that stand for a method of the gallery at the current ratio. */
export function controlsFor(name) {
  const { method, settings, settings_at, granularity } = table.methods[name];
  if (!granularity) return { baseline_sampler: method.replace("-steps", "") };
  const own = settings_at?.[Math.max(0, nearestRatioIndex())] ?? settings;
  return { method, ...Object.fromEntries(Object.entries(own).map(([field, value]) => [`${method}.${field}`, value])) };
}
