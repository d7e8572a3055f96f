/**
 * The transcript of a call: what each side said, and how much of an answer was heard.
 *
 * The text of an answer comes ahead of its sound. It is shown when the sound reaches it: each piece carries the
 * millisecond of the answer's audio at which it begins, and the words between two pieces are spread evenly.
 */

/** Speaking time of one character where the next piece is not known yet, ms. */
const MS_PER_CHARACTER = 62;

/**
 * @typedef {object} Line
 * @property {number} id
 * @property {"you"|"model"} side
 * @property {"spoken"|"typed"} how
 * @property {string} text
 * @property {"open"|"completed"|"cancelled"|"failed"} status
 * @property {number} shown characters of `text` to show as said
 * @property {number} heard characters that were heard, known once the line is no longer open
 * @property {number[]} wave loudness of a spoken turn, 0 to 1, ten values a second
 * @property {number|null} epoch the answer's epoch
 */

/** @typedef {{at: number, startMs: number|null}} Mark `at` is the character at which a piece begins */

export class Transcript {
  /** @param {(line: Line) => void} onChange a line is new or different */
  constructor(onChange) {
    this.onChange = onChange;
    /** @type {Line[]} */
    this.lines = [];
    /** @type {Map<number, {line: Line, marks: Mark[]}>} answers by epoch */
    this.answers = new Map();
    /** @type {Line|null} the person's turn while it is being spoken */
    this.hearing = null;
  }

  /** The person begins to speak. */
  hear() {
    this.hearing ??= this.#add("you", "spoken");
  }

  /** @param {number} level loudness of the microphone now, 0 to 1 */
  hearLevel(level) {
    if (!this.hearing) return;
    this.hearing.wave.push(level);
    this.onChange(this.hearing);
  }

  /** The person's turn is over. */
  heardAll() {
    if (!this.hearing) return;
    const line = this.hearing;
    this.hearing = null;
    line.status = "completed";
    this.onChange(line);
  }

  /**
   * The engine's own transcript of the latest spoken turn.
   * @param {string} text
   */
  spoken(text) {
    const line =
      this.hearing ??
      this.lines.findLast((each) => each.side === "you" && each.how === "spoken") ??
      this.#add("you", "spoken");
    line.text = text;
    line.shown = line.heard = text.length;
    this.onChange(line);
  }

  /** @param {string} text what the person wrote */
  typed(text) {
    const line = this.#add("you", "typed");
    Object.assign(line, { text, status: "completed", shown: text.length, heard: text.length });
    this.onChange(line);
  }

  /** @param {number} epoch */
  begin(epoch) {
    if (this.answers.has(epoch)) return;
    const line = this.#add("model", "spoken");
    line.epoch = epoch;
    this.answers.set(epoch, { line, marks: [] });
  }

  /**
   * A piece of an answer.
   * @param {number} epoch
   * @param {string} delta
   * @param {number|null|undefined} startMs where its sound begins; null for text without sound
   */
  append(epoch, delta, startMs) {
    this.begin(epoch);
    const answer = this.answers.get(epoch);
    if (answer?.line.status !== "open") return;
    const { line, marks } = answer;
    marks.push({ at: line.text.length, startMs: startMs ?? null });
    line.text += delta;
    if (startMs == null) line.shown = line.text.length;
    this.onChange(line);
  }

  /**
   * The loudspeaker has reached `ms` of the answer.
   * @param {number} epoch
   * @param {number} ms
   */
  reach(epoch, ms) {
    const answer = this.answers.get(epoch);
    if (!answer || answer.line.status !== "open") return;
    const shown = Math.max(answer.line.shown, charactersBy(answer.marks, answer.line.text, ms));
    if (shown === answer.line.shown) return;
    answer.line.shown = shown;
    this.onChange(answer.line);
  }

  /**
   * An answer is over. A completed one was heard to its end; a cancelled one as far as the server counted.
   * @param {number} epoch
   * @param {"completed"|"cancelled"|"failed"} status
   * @param {{heardChars?: number|null, heardMs?: number|null}} heard
   */
  finish(epoch, status, { heardChars, heardMs }) {
    const answer = this.answers.get(epoch);
    if (!answer || answer.line.status !== "open") return;
    const { line, marks } = answer;
    line.status = status;
    if (status === "completed") line.heard = line.text.length;
    else if (heardChars != null) line.heard = unitsOf(line.text, heardChars);
    else line.heard = charactersBy(marks, line.text, heardMs ?? 0);
    line.shown = line.text.length;
    this.onChange(line);
  }

  /** The call is over: what is still open stays as far as it was heard. */
  close() {
    this.heardAll();
    for (const [epoch, { line }] of this.answers)
      this.finish(epoch, "cancelled", { heardChars: [...line.text.slice(0, line.shown)].length });
  }

  /** @param {"you"|"model"} side @param {"spoken"|"typed"} how @returns {Line} */
  #add(side, how) {
    /** @type {Line} */
    const line = {
      id: this.lines.length,
      side,
      how,
      text: "",
      status: "open",
      shown: 0,
      heard: 0,
      wave: [],
      epoch: null,
    };
    this.lines.push(line);
    this.onChange(line);
    return line;
  }
}

/**
 * The server counts code points, a JavaScript text UTF-16 units.
 * @param {string} text
 * @param {number} codePoints
 */
function unitsOf(text, codePoints) {
  return [...text].slice(0, codePoints).join("").length;
}

/**
 * How many characters have been said by `ms`, never half a word.
 * @param {Mark[]} marks
 * @param {string} text
 * @param {number} ms
 * @returns {number}
 */
export function charactersBy(marks, text, ms) {
  let reached = 0;
  marks.forEach(({ at, startMs }, index) => {
    if (startMs !== null && startMs > ms) return;
    const next = marks[index + 1];
    const end = next ? next.at : text.length;
    if (startMs === null) {
      reached = end;
      return;
    }
    const duration = next?.startMs != null ? next.startMs - startMs : (end - at) * MS_PER_CHARACTER;
    const share = duration > 0 ? Math.min(1, (ms - startMs) / duration) : 1;
    reached = at + wholeWords(text.slice(at, end), share);
  });
  return reached;
}

/**
 * Characters of the words that have begun when `share` of the piece is said.
 * @param {string} piece
 * @param {number} share 0 to 1
 */
function wholeWords(piece, share) {
  const target = share * piece.length;
  if (target >= piece.length) return piece.length;
  const space = piece.slice(Math.floor(target)).search(/\s|[\u3000-\u9fff]/u);
  return space === -1 ? piece.length : Math.min(piece.length, Math.floor(target) + Math.max(1, space));
}
