// A scene's question: choose an answer and read whether it holds, and why.

import { escaped } from "../text.js";
import { say, withGlossary } from "./texts.js";

export function askQuestion(lesson, { question, answers, right, yes, no }) {
  const box = lesson.box.querySelector(".question");
  box.hidden = !question;
  const answer = (text, index) => `<button type="button" data-answer="${index}" aria-pressed="false">${escaped(text)}</button>`;
  box.innerHTML = `<legend>${say("check")}</legend><p>${withGlossary(question)}</p><p class="answers">${answers.map(answer).join("")}</p><p class="feedback" role="status"></p>`;
  box.onclick = ({ target }) => {
    const chosen = target.closest("[data-answer]");
    if (!chosen) return;
    const isRight = Number(chosen.dataset.answer) === right;
    for (const button of box.querySelectorAll("[data-answer]")) button.setAttribute("aria-pressed", button === chosen);
    chosen.dataset.verdict = isRight ? "right" : "wrong";
    box.querySelector(".feedback").textContent = isRight ? yes : no;
  };
}
