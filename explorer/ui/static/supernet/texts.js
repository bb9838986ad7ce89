// The lesson's texts: one file per language, `en.json` and `de.json`. Another language is another file and a line here.

import { escaped, fillIn } from "../text.js";

export const LANGUAGES = { en: "English", de: "Deutsch" };
let texts = null;

/** Choose a language: what the address says, else the browser's, else English. */
export const preferred = (asked) => [asked, ...navigator.languages.map((one) => one.slice(0, 2))].find((one) => Object.hasOwn(LANGUAGES, one)) ?? "en";

export async function loadTexts(language) {
  texts = await (await fetch(new URL(`${language}.json`, import.meta.url))).json();
  return texts;
}

/** Say one of `words`, with what belongs in its braces. */
export const say = (key, facts = {}) => fillIn(texts.words[key], facts);

const TERM = /\[\[([^\]|]+)\|?([^\]]*)\]\]/g; // [[term]] or [[term|as it is written]]
let numTerms = 0;

/** Make markup of a sentence, whose terms get their line of the glossary. */
export const withGlossary = (sentence) =>
  escaped(sentence).replace(TERM, (_, term, written) => {
    const id = `lesson-term-${numTerms++}`;
    return `<span class="glossary"><button type="button" class="term" aria-describedby="${id}">${written || term}</button><span role="tooltip" id="${id}">${escaped(texts.glossary[term])}</span></span>`;
  });

/** Write a sentence without its glossary. */
export const withoutGlossary = (sentence) => escaped(sentence).replace(TERM, (_, term, written) => written || term);
