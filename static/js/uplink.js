/**
 * How much of what the person says is lost when the connection is.
 *
 * Media time, which every event carries, counts the sound that has reached the server. Where the clock on the wall
 * has gone on further than media time, the rest was lost on the way; the microphone's level tells how much of that
 * was speech.
 */

/** A microphone louder than this hears somebody speak: −45 dBFS, as a level of 0 to 1 (levels.js). */
const SPEECH_LEVEL = 0.25;
/** Pauses up to this long belong to what is said, ms. */
const PAUSE_MS = 300;
/** What was held back in the gap comes in a burst after it, with the media time of before; it has passed then, ms. */
const SETTLE_MS = 1_000;

export class Uplink {
  /** @param {() => number} now a steady clock, ms */
  constructor(now = () => performance.now()) {
    this.now = now;
    /** @type {{at: number, mediaS: number}|null} the newest pair of both clocks before the gap */
    this.before = null;
    /** @type {number[]} when the microphone was loud since the newest pair, ms */
    this.loud = [];
    /** @type {number|null} the last sign of the server before the gap */
    this.lostAt = null;
    /** @type {number|null} */
    this.backAt = null;
  }

  /** @param {number} level the microphone's, about ten times a second */
  hear(level) {
    if (this.backAt === null && level > SPEECH_LEVEL) this.loud.push(this.now());
  }

  /** Nothing has come from the server since `lostAt`. @param {number} lostAt ms */
  lose(lostAt) {
    this.lostAt ??= lostAt;
    this.backAt = null;
  }

  /** The connection is back. */
  regain() {
    if (this.lostAt !== null) this.backAt = this.now();
  }

  /**
   * @param {number} mediaS media time of an event that happens now, s
   * @returns {number} seconds of speech that did not arrive, once for each gap; 0 otherwise
   */
  mark(mediaS) {
    const at = this.now();
    if (this.lostAt === null) {
      this.before = { at, mediaS };
      this.loud = [];
      return 0;
    }
    if (this.backAt === null || at < this.backAt + SETTLE_MS) return 0;
    const missing = this.before ? (at - this.before.at) / 1000 - (mediaS - this.before.mediaS) : 0;
    const { lostAt } = this;
    const spoken = spokenMs(this.loud.filter((loud) => loud >= lostAt)) / 1000;
    this.before = { at, mediaS };
    this.loud = [];
    this.lostAt = this.backAt = null;
    return Math.max(0, Math.min(missing, spoken));
  }
}

/** @param {number[]} loud moments, ms @returns {number} their length with the pauses between words */
function spokenMs(loud) {
  return loud.reduce((sum, at, index) => sum + Math.min(PAUSE_MS, at - (loud[index - 1] ?? at)), 0);
}
