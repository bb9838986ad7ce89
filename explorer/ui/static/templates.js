// The markup of the viewer. Prompts are those of the gallery, never a visitor's.

export const ROLES = ["original", "pruned", "baseline"];

const canvas = '<canvas width="0" height="0" aria-hidden="true"></canvas>';
const fill = (box, rows) => (box.innerHTML = rows.join(""));

/** Name a scene: an unconditional model's has a seed alone. */
export const sceneName = ({ prompt, seed }) => (prompt ? `${prompt}, seed ${seed}` : `seed ${seed}`);

export const fillViewer = (box) =>
  fill(box, ROLES.map((role) => `<figure class="card" data-role="${role}"><div class="frame noise"><canvas class="underlay" width="0" height="0" aria-hidden="true"></canvas>
    <canvas class="picture" width="0" height="0" role="img"></canvas><canvas class="lens" aria-hidden="true"></canvas><span class="counter"></span>
    <button type="button" class="save" title="Save this picture with its settings" aria-label="Save the ${role} picture">↓</button></div>
    <progress max="1" value="1" aria-label="${role}: calls done"></progress><figcaption><h2></h2><p></p><dl></dl></figcaption></figure>`));

export const fillMethods = (box, methods, hues) =>
  fill(box, Object.entries(methods).map(([name, { title }]) => `<button type="button" data-method="${name}" style="--hue: ${hues[name] ?? ""}">${canvas}<span>${title}</span><small></small></button>`));

export const fillSamples = (box, samples) =>
  fill(box, samples.map((one, sample) => `<button type="button" data-sample="${sample}" title="${sceneName(one)}" aria-label="${sceneName(one)}">${canvas}</button>`));

export const fillAllPrompts = (box, samples) =>
  fill(box, samples.map((one, sample) => `<button type="button" data-sample="${sample}" title="${sceneName(one)}">${canvas}${canvas}<span>${one.prompt || sceneName(one)}</span><small></small></button>`));

/** Save the picture of a card as a file whose name says what it is. */
export function savePicture(card, { prompt, seed, method, ratio, sampler, steps }) {
  const what = card.dataset.role === "pruned" ? `${method}-${Math.round(100 * ratio)}` : card.dataset.role;
  const link = document.createElement("a");
  link.download = `${prompt}, seed ${seed}, ${sampler} ${steps}, ${what}.png`.replace(/[^\w .,+-]/g, "-");
  link.href = card.querySelector(".picture").toDataURL("image/png");
  link.click();
}
