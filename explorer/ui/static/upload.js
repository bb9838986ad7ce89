// Choosing a file and sending it to the page, which answers with the id of what it kept, or with one sentence.

/** Let the visitor choose a mask; returns [alert, id], as they were where none was chosen. */
export async function uploadFile(token, alert, selected) {
  const file = await choose(".safetensors");
  if (!file) return [alert, selected];
  const url = new URL("explorer/upload", document.baseURI);
  url.searchParams.set("name", file.name);
  try {
    const answer = await fetch(url, { method: "POST", body: file, headers: { "x-explorer-visitor": token } });
    const { id, error, detail } = await answer.json();
    return id ? ["", id] : [alertBox(error ?? detail), selected];
  } catch {
    return [alertBox("the file did not arrive; try again"), selected];
  }
}

function choose(accept) {
  const input = Object.assign(document.createElement("input"), { type: "file", accept });
  return new Promise((resolve) => {
    input.onchange = () => resolve(input.files[0]);
    input.oncancel = () => resolve(undefined);
    input.click();
  });
}

function alertBox(sentence) {
  const box = Object.assign(document.createElement("p"), { className: "alert", role: "alert", textContent: sentence });
  return box.outerHTML;
}
