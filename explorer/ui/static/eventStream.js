// Keeps events from getting lost. The server closes its stream of answers when a page has no event left, and Gradio's client
// opens a new one for the next event; an event that begins while the stream closes is never answered, or the page takes it for
// a lost connection and opens itself anew. Here Gradio reads one stream that never closes, made of those of the server.

const plainFetch = window.fetch.bind(window);
const unanswered = new Set(); // events that have begun here and are not complete
const early = new Set(); // that were complete before it was known here that they have begun
let onEvent = () => {};

window.fetch = async (resource, options) => {
  const url = String(resource.url ?? resource);
  if (url.includes("/gradio_api/queue/data")) return new Response(joinedStreams(url), { headers: { "content-type": "text/event-stream" } });
  const answer = await plainFetch(resource, options);
  if (url.includes("/gradio_api/queue/join") && answer.ok) {
    const { event_id } = await answer.clone().json();
    if (!early.delete(event_id)) unanswered.add(event_id);
    onEvent();
  }
  return answer;
};

/** Make one stream of all that the server answers on its streams at `url`. */
function joinedStreams(url) {
  const ending = new AbortController();
  const read = async (controller) => {
    try {
      while (!ending.signal.aborted) {
        await readStream(url, controller, ending.signal);
        if (!unanswered.size) await new Promise((resolve) => (onEvent = resolve));
      }
    } catch (error) {
      if (!ending.signal.aborted) controller.error(error); // the connection is lost, of which Gradio tells the visitor
    }
  };
  return new ReadableStream({ start: (controller) => void read(controller), cancel: () => ending.abort() });
}

/** Hand on what one stream of the server says, but not that it closes. */
async function readStream(url, controller, signal) {
  const answer = await plainFetch(url, { headers: { accept: "text/event-stream" }, signal });
  if (!answer.ok) throw new Error(`the stream of answers: ${answer.status}`);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const messages = (rest + value).split("\n\n");
    rest = messages.pop();
    for (const message of messages) {
      if (message.includes('"msg":"process_completed"')) complete(message);
      if (!message.includes('"msg":"close_stream"')) controller.enqueue(new TextEncoder().encode(`${message}\n\n`));
    }
  }
}

/** Note that an event is complete, which may be known before the answer that names it has been read. */
function complete(message) {
  const { event_id } = JSON.parse(message.slice(message.indexOf("{")));
  if (!unanswered.delete(event_id)) early.add(event_id);
}
