/**
 * The server's chat: OpenAI's protocol, as any other program speaks it. Answers come as server-sent events.
 */

/** @typedef {{columns: number, rows: number}} Grid how the engine cut one picture */
/**
 * @typedef {{id: string, sees: boolean, one_picture: boolean, hears: boolean, speaks: boolean, trained: boolean, voices: string[],
 *   context_length: number}} Model
 */
/** @typedef {{text?: string, sound?: Int16Array<ArrayBuffer>, grids?: Grid[], finish?: string,
 *   usage?: {prompt_tokens: number, completion_tokens: number}}} Piece */

const LOOK_AGAIN_MS = 2000;
const LOST = "The server does not answer. Check that it is running, then try again.";

/** What the server refuses, in its own sentence. */
export class Refusal extends Error {}

/** The model that is loaded; while it is loading, this waits. @param {(message: string) => void} tell @returns {Promise<Model>} */
export async function findModel(tell) {
  for (;;) {
    try {
      const answer = await fetch("/v1/models");
      const body = await answer.json();
      if (answer.ok) return body.data[0];
      tell(body.error.message);
      if (answer.status === 401) location.reload();
    } catch {
      tell("The server does not answer. Check that it is running.");
    }
    await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MS));
  }
}

/**
 * Ask, and give the answer piece by piece.
 * @param {Record<string, unknown>} request
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<Piece>}
 */
export async function* ask(request, signal) {
  const body = JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } });
  const headers = { "Content-Type": "application/json" };
  const answer = await reached(fetch("/v1/chat/completions", { method: "POST", headers, body, signal }));
  if (!answer.ok || !answer.body) {
    const told = await answer.json().catch(() => null);
    throw new Refusal(told?.error?.message ?? `The server answered with status ${answer.status}.`);
  }
  for await (const data of events(answer.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Refusal(chunk.error.message);
    yield pieceOf(chunk);
  }
  throw new Refusal(LOST);
}

/** @template T @param {Promise<T>} coming @returns {Promise<T>} fails with a sentence where the network does */
function reached(coming) {
  return coming.catch((reason) => {
    throw reason instanceof TypeError ? new Refusal(LOST) : reason;
  });
}

/** @param {any} chunk @returns {Piece} */
function pieceOf(chunk) {
  const choice = chunk.choices[0];
  const audio = choice?.delta.audio;
  return {
    text: choice?.delta.content ?? audio?.transcript,
    sound: audio?.data && samplesOf(audio.data),
    grids: chunk.pictures,
    finish: choice?.finish_reason ?? undefined,
    usage: chunk.usage ?? undefined,
  };
}

/** @param {string} base64 16-bit samples, little endian */
function samplesOf(base64) {
  const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
  return new Int16Array(bytes.buffer);
}

/** The data of each event. @param {ReadableStream<Uint8Array<ArrayBuffer>>} stream @returns {AsyncGenerator<string>} */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reached(reader.read());
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) if (line.startsWith("data: ")) yield line.slice(6);
  }
}
