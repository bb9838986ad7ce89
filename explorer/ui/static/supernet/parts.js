// Small parts that several panels have.

/** Make a choice of one among a few: { value: label }. */
export function segments(name, labels, chosen, title = "") {
  const option = ([value, label]) => `<label><input type="radio" name="lesson-${name}" value="${value}" ${value === chosen ? "checked" : ""}/><span>${label}</span></label>`;
  return `<fieldset class="segments" aria-label="${title || name}">${Object.entries(labels).map(option).join("")}</fieldset>`;
}

/** Make rows of bars: [{ label, value, low, high, hue, note }], on a scale from `from` to `to`. */
export function bars(rows, from, to) {
  const at = (value) => `${(100 * (Math.min(to, Math.max(from, value)) - from)) / (to - from)}%`;
  const spread = ({ low, high }) => (low === undefined ? "" : `<i class="spread" style="left:${at(low)};width:calc(${at(high)} - ${at(low)})"></i>`);
  const row = (one) => `<tr><th scope="row">${one.label}</th><td class="bar"><i style="width:${at(one.value)};background:${one.hue ?? "var(--lesson-computed)"}"></i>${spread(one)}</td><td>${one.note}</td></tr>`;
  const ticks = Array.from({ length: 5 }, (_, index) => from + ((to - from) * index) / 4).map((value) => `<span>${value}</span>`);
  return `<table class="bars">${rows.map(row).join("")}<tfoot><tr><td></td><td class="ticks">${ticks.join("")}</td><td></td></tr></tfoot></table>`;
}
