// How the page's scripts write shares, foreign text, and sentences with facts in them.

export const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;
export const escaped = (text) => String(text).replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
export const fillIn = (text, facts) => text.replace(/{(\w+)}/g, (_, key) => facts[key]);
