// The whole state of the view in the page's address.

import { close, pack, unpack } from "./schedule.js";
import { map, state } from "./state.js";

export function remember() {
  if (!state.asked.method) return; // the controls have not spoken yet, and Python still has to read what the address says
  const query = new URLSearchParams(location.search);
  const kept = [...query].filter(([name]) => name.startsWith("__") || ["embed", "job", "mask", "tab"].includes(name));
  const { method } = state.asked;
  const shown = Object.entries(state.asked).filter(
    ([name, value]) => value !== null && value !== "" && (!name.includes(".") || name.startsWith(`${method}.`)),
  );
  const own = [state.mode !== "side" && ["view", state.mode], state.edited && ["keep", pack(state.edited)]].filter(Boolean);
  history.replaceState(history.state, "", `?${new URLSearchParams([...kept, ...shown, ...own])}`);
}

/** The schedule made by hand that the address brought along, as soon as there is something to hold it against; whether
 * there was one. */
export function restore() {
  if (!state.wanted || !map.whole) return false;
  const { graph, timesteps } = map.whole;
  const size = timesteps.length * graph.units.length;
  if (Math.ceil(size / 8) === Math.floor((state.wanted.length * 6) / 8)) state.edited = close(graph, unpack(state.wanted, size));
  state.wanted = null;
  remember();
  return true;
}
