// What the scripts of the Explore tab share: the request, what was edited and generated, and what the page was loaded with.

export const openedWith = new URLSearchParams(location.search); // before anything writes into the address
export const state = {
  request: {}, // the controls' values, by name
  mode: "side", // of comparing
  edited: null, // a schedule that was edited by hand
  plan: null, // Python's answer
  generated: null, // Python's pictures
  isStopped: false, // by the visitor, before they were finished
  notice: "", // what the page changed by itself; `nextNotice`: with the next request
  nextNotice: "",
  scheduleFromUrl: openedWith.get("manual_schedule"),
};
export const parts = {}; // the page's component of the pictures, with its properties and events
export let table, strips, heatmap, filmstrip, history;

/** Set some of the last five. */
export function setShared(what) {
  ({ table = table, strips = strips, heatmap = heatmap, filmstrip = filmstrip, history = history } = what);
}
