// Whether the gallery has an answer to the question of the moment, and what the controls say for a part of it.

import { parts, state, table } from "./state.js";

/** What stands in the gallery for the question of the moment; null where nothing does. */
export function covered() {
  const { asked: at } = state;
  const fits = ["model", "sampler", "steps", "guidance"].every((name) => String(at[name]) === String(table?.[name]));
  const scene = fits ? table.scenes.findIndex(({ prompt, seed }) => prompt === at.prompt?.trim() && seed === Number(at.seed)) : -1;
  if (scene < 0) return null;
  const stop = stopOf();
  const method = Object.keys(table.methods).find((name) => matches(table.methods[name], stop));
  return method ? { scene, method, stop } : null;
}

/** The stop of the gallery nearest to the slider; -1 where nothing is left out. */
export function stopOf() {
  const stop = table.ratios.reduce((best, ratio, index) => (distance(ratio) < distance(table.ratios[best]) ? index : best), 0);
  return distance(0) < distance(table.ratios[stop]) ? -1 : stop;
}

const distance = (ratio) => Math.abs(ratio - Number(state.asked.ratio));

/** Whether the controls name this method with its settings at this stop; what they leave open is the method's default. */
function matches({ method, settings, settings_at, granularity }, stop) {
  if (!granularity || method !== state.asked.method) return false;
  const own = Object.entries(state.asked).filter(([name]) => name.startsWith(`${method}.`));
  const choices = !settings_at ? [settings] : stop < 0 ? settings_at : [settings_at[stop]];
  return choices.some((choice) => own.every(([name, value]) => same(value, valueOf(choice, name))));
}

export const same = (one, other) => String(one ?? "") === String(other ?? "");
const valueOf = (settings, name) => settings[name.slice(name.indexOf(".") + 1)] ?? parts.view.props.defaults[name];

/** Whether the settings of the method of the moment are its defaults, all of them. */
export const plain = () => Object.entries(state.asked).every(([name, value]) => !name.startsWith(`${state.asked.method}.`) || same(value, valueOf({}, name)));

/** What the few-step card shows: the sampler of the control where the gallery has it. */
export const rivalOf = () => (table.methods[`${state.asked.rival}-steps`] ? `${state.asked.rival}-steps` : "dpm++-steps");

/** The controls' values that stand for a method of the gallery at the stop of the moment. */
export function choiceOf(name) {
  const { method, settings, settings_at, granularity } = table.methods[name];
  if (!granularity) return { rival: method.replace("-steps", "") };
  const own = settings_at?.[Math.max(0, stopOf())] ?? settings;
  return { method, ...Object.fromEntries(Object.entries(own).map(([field, value]) => [`${method}.${field}`, value])) };
}
