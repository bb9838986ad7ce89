// How the page's scripts write shares, costs, foreign text, and sentences with facts in them.

export const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;
export const giga = (macs) => (macs < 1e12 ? Number((macs / 1e9).toPrecision(3)) : Math.round(macs / 1e9)).toLocaleString("en");
export const escaped = (text) => String(text).replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
export const fillIn = (text, facts) => text.replace(/{(\w+)}/g, (_, key) => facts[key]);
