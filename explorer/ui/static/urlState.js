// The whole state of a view in the page's address. Every write is made here, so that no writer loses another's keys.

import { close, pack, unpack } from "./schedule.js";
import { heatmap, parts, state } from "./state.js";

const replace = (query) => window.history.replaceState(window.history.state, "", query.size ? `?${query}` : location.pathname);

/** Write one value of a tab; an empty one, which 0 is not, is deleted. */
export function writeKey(name, value) {
  const query = new URLSearchParams(location.search);
  if (value || value === 0) query.set(name, value);
  else query.delete(name);
  replace(query);
}

/** Write the state of Explore: its controls, the settings of its method alone, how pictures are compared, a manual
 * schedule. Kept are the keys of the other tabs, `tabKeys` of `url_state.py`, and Gradio's own; unknown keys are deleted. */
export function writeExplore() {
  const { method } = state.request;
  if (!method) return; // the controls are not here yet, and Python still has to read the address
  const { tabKeys } = parts.view.props;
  const kept = [...new URLSearchParams(location.search)].filter(([name]) => name.startsWith("__") || tabKeys.includes(name));
  const controls = Object.entries(state.request).filter(
    ([name, value]) => value !== null && value !== "" && (!name.includes(".") || name.startsWith(`${method}.`)),
  );
  const own = [state.mode !== "side" && ["view", state.mode], state.edited && ["manual_schedule", pack(state.edited)]].filter(Boolean);
  replace(new URLSearchParams([...kept, ...controls, ...own]));
}

/** Restore the manual schedule of the address, as soon as the schedule that it replaces is here. Returns whether there
 * was one. */
export function restoreSchedule() {
  if (!state.scheduleFromUrl || !heatmap.shown) return false;
  const { graph, timesteps } = heatmap.shown;
  const size = timesteps.length * graph.units.length;
  if (Math.ceil(size / 8) === Math.floor((state.scheduleFromUrl.length * 6) / 8)) state.edited = close(graph, unpack(state.scheduleFromUrl, size));
  state.scheduleFromUrl = null;
  writeExplore();
  return true;
}
