// How the page's scripts write shares, and foreign text.

export const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;
export const escaped = (text) => String(text).replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
