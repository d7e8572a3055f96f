/**
 * Before a call has a place: the line of a full server, and an engine that still wakes up. The microphone is off
 * meanwhile; it is opened when there is a place, and the place is kept while the browser asks for permission.
 */

import { asCallError } from "./errors.js";
import { askForPlace, fetchReady, leaveLine } from "./signalling.js";

const READY_POLL_MS = 1_500;
/** Where the server does not say when to ask again, s. */
const QUEUE_POLL_S = 3;
/** The server forgets a ticket that is not shown for a quarter of a minute. */
const KEEP_MS = 5_000;

export class WaitingRoom {
  /**
   * @param {object} on
   * @param {(phase: "queued"|"warming") => void} on.phase
   * @param {(ready: import("./state.js").Ready) => void} on.ready the engine's progress
   * @param {(queue: import("./state.js").Queue) => void} on.queue
   * @param {AbortSignal} signal the person has hung up
   */
  constructor(on, signal) {
    this.on = on;
    this.signal = signal;
    /** @type {string|null} the place in the line, when the server was full */
    this.ticket = null;
    signal.addEventListener("abort", () => this.ticket && leaveLine(this.ticket));
  }

  /** Wait for a place and a warm engine. Rejects with a CallError for anything that waiting does not mend. */
  async place() {
    for (;;) {
      try {
        await askForPlace(this.ticket, this.signal);
        return;
      } catch (reason) {
        if (!(await this.mends(reason))) throw reason;
      }
    }
  }

  /**
   * Wait as long as the server asks for.
   * @param {unknown} reason of a refusal
   * @returns {Promise<boolean>} false if asking again would not help
   */
  async mends(reason) {
    if (this.signal.aborted) return false;
    const { code, details, retryAfter } = asCallError(reason);
    if (code === "engine_not_ready") {
      await this.#engine();
    } else if (code === "server_full") {
      this.ticket = details.ticket ?? this.ticket;
      this.on.queue({ position: details.position ?? null, etaS: details.eta_s ?? null });
      this.on.phase("queued");
      await sleep((retryAfter ?? QUEUE_POLL_S) * 1000, this.signal);
    } else if (code === "rate_limited") {
      // Others behind the same address ask, too. The place in the line, if there is one, is as it was.
      if (!this.ticket) this.on.queue({ position: null, etaS: null });
      this.on.phase("queued");
      await sleep((retryAfter ?? QUEUE_POLL_S) * 1000, this.signal);
    } else return false;
    return true;
  }

  /**
   * Keep the place while `work` goes on, which may take as long as a person reads.
   * @template T
   * @param {Promise<T>} work
   * @returns {Promise<T>}
   */
  async keep(work) {
    const timer = setInterval(() => {
      if (this.ticket) askForPlace(this.ticket, this.signal).catch(() => {});
    }, KEEP_MS);
    return work.finally(() => clearInterval(timer));
  }

  /** The call has its place: the ticket is used up. */
  served() {
    this.ticket = null;
  }

  async #engine() {
    for (;;) {
      this.on.phase("warming");
      const ready = await fetchReady(this.signal);
      this.on.ready(ready);
      if (ready.ready) return;
      await sleep(READY_POLL_MS, this.signal);
    }
  }
}

/**
 * @param {number} ms
 * @param {AbortSignal} signal
 * @returns {Promise<void>} rejects with the signal's reason
 */
export function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => (clearTimeout(timer), reject(signal.reason));
    const timer = setTimeout(() => (signal.removeEventListener("abort", stop), resolve()), ms);
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
  });
}
