// What the scripts of the Explore tab share: what is asked, edited, drawn and shown, and what the page brought along.

export const opened = new URLSearchParams(location.search); // before anything writes into the address
export const state = { asked: {}, mode: "side", edited: null, plan: null, drawn: null, wanted: opened.get("keep") };
export const parts = {}; // the page's component of the pictures, with its properties and events
export let table, strips, map, film, visits;

/** Set some of the last five, for everybody. */
export function bring(what) {
  ({ table = table, strips = strips, map = map, film = film, visits = visits } = what);
}
