/**
 * The transcript of a call as it is kept: on the page until the next call, in the tab through a reload, and in a file
 * when the person asks for one. It never goes to the server.
 */

const KEY = "omni-call.transcript";

/** @typedef {import("./captions.js").Line} Line */
/** @typedef {{atS: number, line: Line} | {atS: number, remark: string}} Entry `atS` is seconds since the call began */

export class CallRecord {
  /**
   * @param {string} model its name
   * @param {string} begun date and time, ISO 8601
   * @param {Entry[]} entries
   */
  constructor(model, begun = new Date().toISOString(), entries = []) {
    this.model = model;
    this.begun = begun;
    this.entries = entries;
    this.known = new Set(this.lines);
  }

  /** @returns {Line[]} what both sides said, in its order */
  get lines() {
    return this.entries.flatMap((entry) => ("line" in entry ? [entry.line] : []));
  }

  /** Lines go on changing; a new one takes its place in the order. @param {Line} line */
  keep(line) {
    if (this.known.has(line)) return;
    this.known.add(line);
    this.entries.push({ atS: this.#seconds(), line });
  }

  /** @param {string} remark what the page has to say about the call */
  remark(remark) {
    this.entries.push({ atS: this.#seconds(), remark });
  }

  /** @returns {string} for people: a paragraph each, with what was not heard in brackets */
  text() {
    const title = `Omni Call with ${this.model || "the assistant"}, ${new Date(this.begun).toLocaleString()}`;
    const paragraphs = this.entries.map((entry) => `[${clock(entry.atS)}] ${sentence(entry)}`);
    return [title, ...paragraphs].join("\n\n") + "\n";
  }

  /** @returns {string} for programs */
  json() {
    const entries = this.entries.map((entry) => ({ at_s: entry.atS, ...fields(entry) }));
    return JSON.stringify({ format: 1, begun: this.begun, model: this.model, entries }, null, 2) + "\n";
  }

  /** Keep it in the tab. @returns {boolean} false in a browser that has no room and leaves it on the page only */
  save() {
    const { model, begun, entries } = this;
    const short = (/** @type {string} */ key, /** @type {any} */ value) => {
      if (key === "starts") return [...value];
      return key === "wave" ? value.map((/** @type {number} */ level) => Math.round(level * 100) / 100) : value;
    };
    try {
      sessionStorage.setItem(KEY, JSON.stringify({ model, begun, entries }, short));
      return true;
    } catch (reason) {
      console.warn("The transcript was not kept for a reload", reason);
      return false;
    }
  }

  /** @returns {CallRecord|null} of the call before the page was loaded */
  static restore() {
    try {
      const revive = (/** @type {string} */ key, /** @type {any} */ value) => (key === "starts" ? new Map(value) : value);
      const { model, begun, entries } = JSON.parse(sessionStorage.getItem(KEY) ?? "", revive);
      return entries.length ? new CallRecord(model, begun, entries) : null;
    } catch {
      return null;
    }
  }

  #seconds() {
    return Math.round((Date.now() - Date.parse(this.begun)) / 100) / 10;
  }
}

/**
 * Let the browser save a text as a file.
 * @param {CallRecord} record
 * @param {"txt"|"json"} kind
 */
export function download(record, kind) {
  const [content, type] = kind === "txt" ? [record.text(), "text/plain"] : [record.json(), "application/json"];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: `${type};charset=utf-8` }));
  link.download = `omni-call-${record.begun.slice(0, 16).replace("T", "-").replace(":", "")}.${kind}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** @param {Entry} entry */
function fields(entry) {
  if ("remark" in entry) return { who: "page", text: entry.remark };
  const { side, how, text, heard, status, wave } = entry.line;
  if (side === "model") return { who: "assistant", text, heard: text.slice(0, heard), status };
  if (how === "typed") return { who: "you", how, text };
  return { who: "you", how, text: text || null, spoken_s: wave.length / 10 };
}

/** @param {Entry} entry */
function sentence(entry) {
  if ("remark" in entry) return `(${entry.remark})`;
  const { side, text, heard, wave } = entry.line;
  if (side === "you") return `You: ${text || `(spoke for ${(wave.length / 10).toFixed(1)} s)`}`;
  const unheard = text.slice(heard).trim();
  return `Assistant: ${text.slice(0, heard).trim()}${unheard ? ` [not heard: ${unheard}]` : ""}`;
}

/** @param {number} seconds */
function clock(seconds) {
  return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
}
