// A scene's question: choose an answer and read whether it holds, and why.

import { escaped } from "../text.js";
import { mostChanged } from "./panels.js";
import { say, withGlossary } from "./texts.js";

const computed = { "most-changed": mostChanged }; // answers that the data give

export function askQuestion(lesson, { question, answers, right, yes, no }) {
  const box = lesson.box.querySelector(".question");
  box.hidden = !question;
  const correct = computed[right]?.(lesson.data) ?? right;
  const answer = (text, index) => `<button type="button" data-answer="${index}" aria-pressed="false">${escaped(text)}</button>`;
  box.innerHTML = `<legend>${say("check")}</legend><p>${withGlossary(question)}</p><p class="answers">${answers.map(answer).join("")}</p><p class="feedback" role="status"></p>`;
  box.onclick = ({ target }) => {
    const chosen = target.closest("[data-answer]");
    if (!chosen) return;
    const isRight = Number(chosen.dataset.answer) === correct;
    for (const button of box.querySelectorAll("[data-answer]")) button.setAttribute("aria-pressed", button === chosen);
    chosen.dataset.verdict = isRight ? "right" : "wrong";
    box.querySelector(".feedback").textContent = isRight ? yes : no;
  };
}
