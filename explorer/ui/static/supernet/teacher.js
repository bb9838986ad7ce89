// The teacher's page: what a class learns, a link per scene, answers, and a handout. Everything is in the lesson's texts.

import { escaped } from "../text.js";
import { Choice } from "./choice.js";
import { Drawing } from "./drawing.js";
import { LESSON } from "./sheets.js";
import { loadTexts, preferred, say, withoutGlossary } from "./texts.js";

const data = await (await fetch(new URL("lesson.json", LESSON))).json();
const language = preferred(new URLSearchParams(location.search).get("lang"));
const texts = await loadTexts(language);
const page = document.querySelector(".teacher-page");
document.documentElement.lang = language;

const address = (id) => new URL(`../../../?tab=supernet&scene=${id}&present=1&lang=${language}`, location.href).href;
const rightAnswer = ({ answers, right }) => answers[right];
const asked = texts.scenes.filter(({ question }) => question);

const goals = `<h2>${say("goals")}</h2><ul>${texts.goals.map((goal) => `<li>${escaped(goal)}</li>`).join("")}</ul>`;
const scene = (one, number) => `<tr><th scope="row"><a href="${address(one.id)}">${number + 1}. ${escaped(one.title)}</a></th>
  <td>${one.question ? `${withoutGlossary(one.question)}<br/><b>${say("answer")}: ${escaped(rightAnswer(one))}.</b> ` : ""}${escaped(one.teacher)}</td></tr>`;
const words = Object.entries(texts.terms).map(([term, name]) => `<p><b>${escaped(name)}</b>: ${escaped(texts.glossary[term])}</p>`).join("");
const question = (one, number) => `<p><b>${number + 1}. ${withoutGlossary(one.question)}</b><br/>${one.answers.map((answer) => `<span class="tick">${escaped(answer)}</span>`).join(" &nbsp; ")}</p>`;
const ownWords = ["SuperNet", "cascade", "gate", "budget"].map((term) => `<p><b>${escaped(texts.terms[term])}</b><span class="line"></span></p>`).join("");

page.innerHTML = `<h1>SuperNet</h1>${goals}<h2>${say("links")}</h2><table>${texts.scenes.map(scene).join("")}</table>
  <h2>${say("handout")}</h2><p><button type="button">${say("print")}</button></p>
  <section class="handout"><div class="sheet"><h2>SuperNet</h2><p>${say("yourName")}<span class="line"></span></p><p>${withoutGlossary(texts.scenes[3].sentence)} ${withoutGlossary(texts.scenes[4].sentence)}</p>
  <div class="lesson"><div class="drawing"></div></div><p>${say("handoutDo")}</p>${words}</div>
  <div class="sheet">${asked.map(question).join("")}${ownWords}</div></section>`;
page.querySelector("button").onclick = () => print();
const drawing = new Drawing(page.querySelector(".drawing"), new Choice(data), { onToggle: () => {}, onPoint: () => {} });
drawing.setState({ wires: true, clickable: false });
drawing.update();
drawing.showPictures(Array(data.steps).fill(null));
