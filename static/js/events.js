/**
 * The event protocol on the data channel `events`, version 1: one JSON envelope per message,
 * `seq` gapless in each direction. See app/protocol.schema.json.
 */

export const PROTOCOL = 1;

/** Longest text that fits into one message with its envelope, UTF-8 bytes; the server refuses messages over 16 KB. */
export const MAX_TEXT_BYTES = 8000;

/**
 * @typedef {object} Envelope
 * @property {number} v
 * @property {string} type
 * @property {number} seq
 * @property {number} t session media time, seconds
 * @property {number} [turn]
 * @property {number} [epoch]
 * @property {Record<string, any>} data
 */

/** Orders and numbers the events of one call. It outlives the connections that carry it. */
export class EventLog {
  constructor() {
    this.nextOut = 0;
    /** @type {number|null} seq of the newest event that came in */
    this.lastIn = null;
  }

  /**
   * @param {string} type
   * @param {Record<string, any>} data
   * @returns {string} the message to send
   */
  envelope(type, data) {
    return JSON.stringify({ v: PROTOCOL, type, seq: this.nextOut++, data });
  }

  /**
   * One message as an event, or null for one that was already handled (a resumed connection repeats some)
   * or that no version-1 receiver can read.
   * @param {unknown} message
   * @returns {Envelope|null}
   */
  accept(message) {
    if (typeof message !== "string") return null;
    let event;
    try {
      event = JSON.parse(message);
    } catch {
      console.warn("The server sent a message that is not JSON", message.slice(0, 200));
      return null;
    }
    if (event?.v !== PROTOCOL || typeof event.type !== "string" || !Number.isInteger(event.seq)) return null;
    if (this.lastIn !== null && event.seq <= this.lastIn) return null;
    if (this.lastIn !== null && event.seq !== this.lastIn + 1) {
      console.warn(`Events ${this.lastIn + 1} to ${event.seq - 1} are missing`);
    }
    if (event.type !== "session.moved") this.lastIn = event.seq; // its number is that of the call's next event
    return { ...event, data: event.data ?? {} };
  }
}
