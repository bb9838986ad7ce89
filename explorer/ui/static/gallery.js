// The gallery of each model. A model's table is fetched when that model is chosen for the first time.

import { Strips } from "./pictures.js";
import { parts } from "./state.js";

const NONE = { table: null, strips: null };
const fetched = new Map();

/** Tell where a model's gallery is and what is wrong with it. */
export const galleryFacts = (model) => (Object.hasOwn(parts.view.props.galleries, model) ? parts.view.props.galleries[model] : { folder: "", missing: [], warnings: [] });

/** Fetch a model's gallery, once: { table, strips }, both null where it has none or it cannot be fetched. */
export function fetchGallery(model) {
  const { folder, missing } = galleryFacts(model);
  if (!folder) return NONE;
  if (!fetched.has(model)) fetched.set(model, fetchTable(folder, model, missing));
  return fetched.get(model);
}

async function fetchTable(folder, model, missing) {
  try {
    const answer = await fetch(`${folder}table.json`);
    return { table: await answer.json(), strips: new Strips(folder, missing) };
  } catch {
    fetched.delete(model); // the next visit of this model tries again
    return NONE;
  }
}
