/**
 * One call from the tap to the hang-up: it asks for a place, keeps a connection under the call, and builds another
 * when the network takes one away. What the events mean is not its business (conversation.js).
 */

import { CallError, asCallError } from "./errors.js";
import { EventLog, PROTOCOL } from "./events.js";
import { Peer } from "./peer.js";
import { closeCall, fetchReady, openCall, restartCall } from "./signalling.js";

/** From the answer to an open data channel, ms. */
const CONNECT_MS = 12_000;
/** ICE may recover by itself for so long, ms. */
const UNSTABLE_MS = 2_500;
/** Without any word of the server for so long the connection counts as lost, ms. It speaks once a second. */
const SILENCE_MS = 5_000;
const PING_MS = 2_000;
/** From the goodbye to the end of the connection, ms. */
const FAREWELL_MS = 1_000;
const RETRY_MS = [300, 700, 1500, 3000, 5000];
const READY_POLL_MS = 1_500;
const QUEUE_POLL_S = 3;
/** Used when the welcome names no limit: how long a call without a connection is kept, s. */
const RESUME_S = 60;

/** @param {number} ms @returns {Promise<false>} */
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms, false));

/** @param {number} ms @param {AbortSignal} signal */
function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}

export class Call {
  /**
   * @param {import("./media.js").Capture} capture opened already
   * @param {{options: Record<string, any>, iceServers: RTCIceServer[]}} settings options of the offer; STUN and TURN, if any
   * @param {object} on
   * @param {(phase: import("./state.js").Phase) => void} on.phase
   * @param {(event: import("./events.js").Envelope) => void} on.event
   * @param {(stream: MediaStream) => void} on.stream
   * @param {(ready: import("./state.js").Ready) => void} on.ready the engine's progress while the call waits for it
   * @param {(queue: {position: number, etaS: number|null}) => void} on.queue
   * @param {(error: CallError|null) => void} on.trouble what the call waits for (a place, the network), and null when it goes on
   * @param {(error: CallError|null) => void} on.over the call has ended, by itself or by a fault
   */
  constructor(capture, settings, on) {
    this.capture = capture;
    this.settings = settings;
    this.on = on;
    this.log = new EventLog();
    this.stop = new AbortController();
    /** @type {Peer|null} */
    this.peer = null;
    /** @type {import("./signalling.js").Answer|null} */
    this.answer = null;
    this.lastWord = performance.now();
    this.resumeS = RESUME_S;
    this.restarting = false;
    /** the server has ended the call, so that there is nothing to hang up */
    this.forgotten = false;
    /** @type {(() => void)|null} */
    this.welcomed = null;
  }

  /** Get a place and connect; waits for an engine that warms up and in the queue of a full server. */
  async start() {
    const { signal } = this.stop;
    try {
      await this.#place(signal);
      this.on.trouble(null);
      this.on.phase("live");
      this.#watch();
    } catch (reason) {
      if (!signal.aborted) await this.end("failed", asCallError(reason));
    }
  }

  /**
   * @param {string} type
   * @param {Record<string, any>} data
   * @returns {boolean} false when there is no connection; the event is then not sent at all
   */
  send(type, data) {
    if (this.peer?.channel.readyState !== "open" || this.welcomed) return false;
    return this.peer.send(this.log.envelope(type, data));
  }

  /**
   * @param {import("./media.js").Kind} kind
   * @param {MediaStreamTrack|null} track
   */
  replace(kind, track) {
    this.peer?.replace(kind, track).catch((reason) => console.warn("replaceTrack failed", reason));
  }

  /**
   * @param {string} reason
   * @param {CallError|null} [error]
   */
  async end(reason, error = null) {
    if (this.stop.signal.aborted) return;
    const { peer, answer } = this;
    const said = this.send("bye", { reason });
    this.stop.abort(new Error("The call has ended"));
    this.peer = null;
    this.on.over(error);
    // The server ends the connection on a goodbye; without a sign of that, the place is given back by request.
    const understood = said && peer && (await Promise.race([peer.ended, pause(FAREWELL_MS)]));
    peer?.close();
    if (answer && !understood && !this.forgotten) await closeCall(answer);
  }

  /** @param {AbortSignal} signal */
  async #place(signal) {
    /** @type {string|null} */
    let ticket = null;
    for (;;) {
      try {
        await this.#connect((sdp) => openCall(sdp, this.settings.options, ticket, signal), signal);
        return;
      } catch (reason) {
        const error = asCallError(reason);
        if (error.code === "engine_not_ready") {
          await this.#engine(signal);
        } else if (error.code === "server_full") {
          ticket = error.details.ticket ?? ticket;
          this.on.trouble(new CallError("server_full"));
          this.on.queue({ position: error.details.position ?? 1, etaS: error.details.eta_s ?? null });
          this.on.phase("queued");
          await sleep((error.retryAfter ?? QUEUE_POLL_S) * 1000, signal);
        } else if (error.code === "rate_limited" && ticket) {
          // Others who wait behind the same address ask, too.
          await sleep((error.retryAfter ?? QUEUE_POLL_S) * 1000, signal);
        } else throw error;
      }
    }
  }

  /** Wait until the engine is warm. @param {AbortSignal} signal */
  async #engine(signal) {
    for (;;) {
      this.on.phase("warming");
      const ready = await fetchReady(signal);
      this.on.ready(ready);
      if (ready.ready) return;
      await sleep(READY_POLL_MS, signal);
    }
  }

  /**
   * Build a connection and wait for the server's welcome on it.
   * @param {(sdp: string) => Promise<import("./signalling.js").Answer>} signalling
   * @param {AbortSignal} signal
   */
  async #connect(signalling, signal) {
    this.peer?.close();
    const peer = new Peer(this.capture, this.settings.iceServers, {
      stream: this.on.stream,
      message: (message) => this.#receive(message),
      link: (link) => this.#onLink(peer, link),
    });
    this.peer = peer;
    const welcome = new Promise((resolve) => (this.welcomed = () => resolve(undefined)));
    try {
      const offer = await peer.offer();
      const resumeToken = this.answer?.resumeToken;
      const answer = await signalling(offer);
      this.answer = {
        ...answer,
        resumeToken: answer.resumeToken ?? resumeToken,
        callId: answer.callId ?? this.answer?.callId,
      };
      if (signal.aborted) {
        await closeCall(this.answer);
        throw signal.reason;
      }
      if (!this.restarting) this.on.phase("connecting");
      await peer.accept(answer.sdp);
      await within(peer.opened, CONNECT_MS, signal);
      this.lastWord = performance.now();
      peer.send(this.log.envelope("hello", this.#hello(resumeToken)));
      await within(welcome, CONNECT_MS, signal);
      this.welcomed = null;
    } catch (reason) {
      peer.close();
      throw reason;
    }
  }

  /** @param {string|undefined} resumeToken */
  #hello(resumeToken) {
    return {
      protocol: PROTOCOL,
      caps: ["captions", "playback.report", "frame.used"],
      device: deviceClass(),
      locale: navigator.language,
      ...(resumeToken ? { resume_token: resumeToken, last_seq: this.log.lastIn ?? -1 } : {}),
    };
  }

  /** @param {unknown} message */
  #receive(message) {
    this.lastWord = performance.now();
    const event = this.log.accept(message);
    if (!event) return;
    if (event.type === "welcome") {
      this.resumeS = event.data.limits?.resume_s ?? this.resumeS;
      if (event.data.resume_token && this.answer) this.answer.resumeToken = event.data.resume_token;
      this.welcomed?.();
      this.welcomed = null;
    }
    this.on.event(event);
    if (event.type === "error" && event.data.fatal) {
      this.forgotten = true;
      this.end(
        "fatal_error",
        new CallError(event.data.code, { message: event.data.message, retry: event.data.retryable }),
      );
    }
  }

  /**
   * @param {Peer} peer
   * @param {import("./peer.js").Link} link
   */
  async #onLink(peer, link) {
    if (peer !== this.peer || this.welcomed) return;
    if (link === "lost") this.restart();
    if (link !== "unstable") return;
    await pause(UNSTABLE_MS);
    if (peer === this.peer && peer.pc.connectionState !== "connected") this.restart();
  }

  /** A word every two seconds in each direction, and a restart when the other side falls silent. */
  #watch() {
    const timer = setInterval(() => {
      if (this.restarting) return;
      this.send("ping", { nonce: `${this.log.nextOut}` });
      if (performance.now() - this.lastWord > SILENCE_MS) this.restart();
    }, PING_MS);
    const online = () => this.restart();
    const offline = () => this.on.trouble(new CallError("network_lost"));
    window.addEventListener("online", online);
    window.addEventListener("offline", offline);
    this.stop.signal.addEventListener("abort", () => {
      clearInterval(timer);
      window.removeEventListener("online", online);
      window.removeEventListener("offline", offline);
    });
  }

  /** Put a new connection under the call. Runs until it stands, the server has forgotten the call, or time is up. */
  async restart() {
    if (this.restarting || this.stop.signal.aborted || !this.answer) return;
    const { signal } = this.stop;
    const { answer } = this;
    this.restarting = true;
    this.on.phase("reconnecting");
    this.on.trouble(new CallError("network_lost"));
    const giveUpAt = performance.now() + this.resumeS * 1000;
    try {
      for (let attempt = 0; ; attempt++) {
        try {
          await this.#connect((sdp) => restartCall(answer, sdp, signal), signal);
          break;
        } catch (reason) {
          const error = asCallError(reason);
          if (signal.aborted) return;
          if (error.code === "call_gone") {
            this.forgotten = true;
            throw error;
          }
          if (performance.now() > giveUpAt)
            throw error.code === "server_unreachable" ? error : new CallError("call_gone", { cause: error });
        }
        await sleep(RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)], signal);
      }
      this.on.trouble(null);
      this.on.phase("live");
    } catch (reason) {
      if (!signal.aborted) await this.end("lost", asCallError(reason));
    } finally {
      this.restarting = false;
    }
  }
}

/**
 * @template T
 * @param {Promise<T>} promise
 * @param {number} ms
 * @param {AbortSignal} signal
 * @returns {Promise<T>}
 */
function within(promise, ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new CallError("media_blocked")), ms);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

function deviceClass() {
  const touch = matchMedia("(pointer: coarse)").matches;
  if (!touch) return "desktop";
  return Math.min(screen.width, screen.height) < 600 ? "phone" : "tablet";
}
