/**
 * A chat as it stands: solved examples in front, then turns of the person and the model. It lives on the page; the server
 * gets all of it with every question.
 */

/** @typedef {import("./attachments.js").Attachment} Attachment */
/** @typedef {import("./api.js").Grid} Grid */
/** @typedef {{who: "you", text: string, attachments: Attachment[], grids?: Grid[]}} Question */
/** @typedef {{who: "model", text: string, status: "waiting"|"coming"|"done"|"stopped"|"failed", note?: string,
 *   sound?: Blob, tokens?: number}} Answer */
/** @typedef {Question|Answer} Turn */
/** @typedef {{picture: Attachment|null, question: string, answer: string}} Example */

export class Conversation {
  constructor() {
    /** @type {Turn[]} */
    this.turns = [];
    /** @type {Example[]} */
    this.examples = [];
    /** What the model is told first. */
    this.system = "";
  }

  /** @returns {Answer|null} the answer at the end */
  get last() {
    const turn = this.turns.at(-1);
    return turn?.who === "model" ? turn : null;
  }

  /** A question, and its answer to come. @param {string} text @param {Attachment[]} attachments */
  add(text, attachments) {
    this.turns.push({ who: "you", text, attachments });
    return this.again();
  }

  /** An answer to the last question, in place of the one that it has. @returns {Answer} */
  again() {
    if (this.last) this.turns.pop();
    /** @type {Answer} */
    const answer = { who: "model", text: "", status: "waiting" };
    this.turns.push(answer);
    return answer;
  }

  /** Take back a question and all that followed. @param {Question} question */
  cut(question) {
    this.turns.length = this.turns.indexOf(question);
  }

  /** @returns {object[]} the messages up to the last question, as the protocol has them */
  messages() {
    const messages = [];
    if (this.system.trim()) messages.push({ role: "system", content: this.system.trim() });
    for (const { picture, question, answer } of this.examples) {
      messages.push({ role: "user", content: contentOf(question, picture ? [picture] : []) });
      messages.push({ role: "assistant", content: answer });
    }
    const end = this.last ? -1 : this.turns.length;
    for (const turn of this.turns.slice(0, end)) {
      if (turn.who === "you") messages.push({ role: "user", content: contentOf(turn.text, turn.attachments) });
      else messages.push({ role: "assistant", content: turn.text || "…" });
    }
    return messages;
  }

  /**
   * Give the questions the grids of their pictures. The frames of a video are pictures, too: of one video their number
   * is what is left, of several nobody knows whose they are.
   * @param {Grid[]} grids of all pictures that were sent, in order
   */
  cutAs(grids) {
    const questions = this.turns.filter((turn) => turn.who === "you");
    const sent = [
      ...this.examples.flatMap(({ picture }) => (picture ? [{ kind: picture.kind, question: null }] : [])),
      ...questions.flatMap((question) => question.attachments.map(({ kind }) => ({ kind, question }))),
    ];
    const videos = sent.filter(({ kind }) => kind === "video").length;
    const pictures = sent.filter(({ kind }) => kind === "picture").length;
    const frames = videos === 1 ? grids.length - pictures : 0;
    if (videos > 1) return;
    for (const question of questions) question.grids = [];
    let next = 0;
    for (const { kind, question } of sent) {
      if (kind === "picture") question?.grids?.push(grids[next] ?? { columns: 1, rows: 1 });
      next += { picture: 1, video: frames, sound: 0 }[kind];
    }
  }

  /** @param {string} model @returns {string} for people */
  text(model) {
    const paragraphs = this.turns.map((turn) => {
      if (turn.who === "model") return `${model}: ${turn.text}`;
      const added = turn.attachments.map(({ kind, name }) => `[${kind}: ${name}]`);
      return `You: ${[...added, turn.text].filter(Boolean).join(" ")}`;
    });
    return `${paragraphs.join("\n\n")}\n`;
  }

  /** @param {string} model @returns {string} for programs: a body that any client of the protocol can send */
  json(model) {
    const answer = this.last?.text ? [{ role: "assistant", content: this.last.text }] : [];
    return `${JSON.stringify({ model, messages: [...this.messages(), ...answer] }, null, 2)}\n`;
  }
}

/** Pictures, videos and sounds, then the words. @param {string} text @param {Attachment[]} attachments */
function contentOf(text, attachments) {
  if (!attachments.length) return text;
  const parts = attachments.map(partOf);
  return text ? [...parts, { type: "text", text }] : parts;
}

/** @param {Attachment} attachment */
function partOf({ kind, url }) {
  if (kind === "picture") return { type: "image_url", image_url: { url } };
  if (kind === "video") return { type: "video_url", video_url: { url } };
  const format = /^data:audio\/(?:x-)?(\w+)/.exec(url)?.[1] ?? "wav";
  const names = { mpeg: "mp3", mp4: "m4a", wave: "wav" };
  const data = url.slice(url.indexOf(",") + 1);
  return { type: "input_audio", input_audio: { data, format: names[/** @type {"mpeg"} */ (format)] ?? format } };
}
