/**
 * Push-to-talk: the microphone is open while the person holds the button, and what they said is a turn when they let
 * go. A button that is pressed by mistake asks nothing.
 */

/** Less than this is a slip, not a word, ms. */
const LEAST_HOLD_MS = 300;
/** People let go with the last sound, and sound travels behind the events: the microphone stays open so long, ms. */
const TAIL_MS = 250;

export class PushToTalk {
  /**
   * @param {object} on
   * @param {(open: boolean) => void} on.microphone open or close it; the server is told
   * @param {(type: "input.commit"|"input.discard") => boolean} on.send false when there is no connection
   * @param {(talking: boolean) => void} on.talking
   * @param {() => void} on.slip it was held too short to say anything
   */
  constructor(on) {
    this.on = on;
    this.active = false;
    this.talking = false;
    this.since = 0;
    /** @type {number|undefined} runs from letting go to the end of the turn */
    this.tail = undefined;
    /** @type {"input.commit"|"input.discard"|null} an end of a turn that there was no connection to tell of */
    this.owed = null;
  }

  /** Whether turns are taken this way now. @param {boolean} active */
  activate(active) {
    if (active === this.active) return;
    this.active = active;
    this.#rest();
    this.on.microphone(!active);
  }

  press() {
    if (!this.active || this.talking) return;
    clearTimeout(this.tail); // pressed again at once: the turn goes on
    this.since = performance.now();
    this.#talk(true);
    this.on.microphone(true);
  }

  release() {
    if (!this.talking) return;
    if (performance.now() - this.since < LEAST_HOLD_MS) {
      this.discard();
      this.on.slip();
      return;
    }
    this.#talk(false);
    this.tail = window.setTimeout(() => this.#end("input.commit"), TAIL_MS);
  }

  /** What was said since the button was pressed is not to be answered. */
  discard() {
    if (this.talking) this.#end("input.discard");
  }

  /** There is a connection again. */
  regain() {
    if (this.owed && this.on.send(this.owed)) this.owed = null;
  }

  close() {
    this.active = false;
    this.#rest();
  }

  /** @param {"input.commit"|"input.discard"} how */
  #end(how) {
    this.#rest();
    this.owed = this.on.send(how) ? null : how;
    this.on.microphone(false);
  }

  #rest() {
    clearTimeout(this.tail);
    this.#talk(false);
  }

  /** @param {boolean} talking */
  #talk(talking) {
    if (talking === this.talking) return;
    this.talking = talking;
    this.on.talking(talking);
  }
}
