/**
 * The transcript of a call: what each side said, and how much of an answer was heard.
 *
 * The text of an answer comes ahead of its sound, and is shown when the sound reaches it. The server alone says when
 * that is: it tells at which millisecond of the answer's sound each word begins, and mends that until it is spoken.
 */

/**
 * @typedef {object} Line
 * @property {number} id
 * @property {"you"|"model"} side
 * @property {"spoken"|"typed"} how
 * @property {string} text
 * @property {"open"|"completed"|"cancelled"|"failed"} status
 * @property {number} shown characters of `text` to show as said
 * @property {number} heard characters that were heard: of an answer known once the line is no longer open, of the person's
 *   words those that the engine is certain of
 * @property {number[]} wave loudness of a spoken turn, 0 to 1, ten values a second
 * @property {number|null} epoch the answer's epoch
 * @property {Starts} starts of an open answer's words
 */

/**
 * When words begin, ms of the answer's sound, by their first character. The server counts code points, a JavaScript
 * text UTF-16 units: these are the server's.
 * @typedef {Map<number, number>} Starts
 */

export class Transcript {
  /**
   * @param {(line: Line) => void} onChange a line is new or different
   * @param {Line[]} lines of a call that goes on
   */
  constructor(onChange, lines = []) {
    this.onChange = onChange;
    this.lines = lines;
    /** @type {Map<number, Line>} answers by epoch */
    this.answers = new Map(lines.flatMap((line) => (line.epoch === null ? [] : [[line.epoch, line]])));
    /** @type {Line|null} the person's turn while it is being spoken */
    this.hearing = lines.find(({ side, status }) => side === "you" && status === "open") ?? null;
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
   * @param {string} text all of it so far
   * @param {string} [delta] what has become certain now
   * @param {boolean} [final] all of it is certain
   */
  spoken(text, delta = "", final = true) {
    const line =
      this.hearing ??
      this.lines.findLast((each) => each.side === "you" && each.how === "spoken") ??
      this.#add("you", "spoken");
    line.text = text;
    line.shown = text.length;
    line.heard = final ? text.length : Math.min(line.heard + delta.length, text.length);
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
    this.answers.set(epoch, line);
  }

  /**
   * A piece of an answer.
   * @param {number} epoch
   * @param {string} delta
   * @param {[number, number][]} [starts] of its words; none for text without sound
   */
  append(epoch, delta, starts) {
    this.begin(epoch);
    const line = this.answers.get(epoch);
    if (line?.status !== "open") return;
    line.text += delta;
    if (starts) this.time(epoch, starts);
    else line.shown = line.text.length;
    this.onChange(line);
  }

  /**
   * When words of an answer begin; what was said of them before holds no longer.
   * @param {number} epoch
   * @param {[number, number][]} starts first character (code points of the whole answer) and millisecond of its sound
   */
  time(epoch, starts) {
    const line = this.answers.get(epoch);
    for (const [character, ms] of starts) line?.starts.set(character, ms);
  }

  /**
   * The loudspeaker has reached `ms` of the answer.
   * @param {number} epoch
   * @param {number} ms
   */
  reach(epoch, ms) {
    const line = this.answers.get(epoch);
    if (line?.status !== "open") return;
    const shown = Math.max(line.shown, charactersBy(line.starts, line.text, ms));
    if (shown === line.shown) return;
    line.shown = shown;
    this.onChange(line);
  }

  /**
   * An answer is over. A completed one was heard to its end; a cancelled one as far as the server counted.
   * @param {number} epoch
   * @param {"completed"|"cancelled"|"failed"} status
   * @param {number} heardChars
   */
  finish(epoch, status, heardChars) {
    const line = this.answers.get(epoch);
    if (line?.status !== "open") return;
    line.status = status;
    line.starts.clear();
    line.heard = status === "completed" ? line.text.length : unitsOf(line.text, heardChars);
    line.shown = line.text.length;
    this.onChange(line);
  }

  /** The call is over: what is still open stays as far as it was heard. */
  close() {
    this.heardAll();
    for (const [epoch, line] of this.answers)
      this.finish(epoch, "cancelled", codePoints(line.text.slice(0, line.shown)));
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
      starts: new Map(),
    };
    this.lines.push(line);
    this.onChange(line);
    return line;
  }
}

/** @param {string} text */
function codePoints(text) {
  return [...text].length;
}

/**
 * @param {string} text
 * @param {number} codePoints
 * @returns {number} UTF-16 units
 */
function unitsOf(text, codePoints) {
  return [...text].slice(0, codePoints).join("").length;
}

/**
 * How many characters (UTF-16 units) of an answer have been said by `ms`: the words that have begun.
 * @param {Starts} starts
 * @param {string} text
 * @param {number} ms
 * @returns {number}
 */
export function charactersBy(starts, text, ms) {
  const waiting = [...starts].filter(([, startMs]) => startMs >= ms).map(([character]) => character);
  return waiting.length ? unitsOf(text, Math.min(...waiting)) : text.length;
}
