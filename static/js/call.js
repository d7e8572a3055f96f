/**
 * One call from the tap to the hang-up: it waits for a place (waiting.js), opens the microphone, keeps a connection
 * under the call, and builds another when the network takes one away. What the events mean is not its business
 * (conversation.js).
 */

import { CallError, asCallError, endedByServer } from "./errors.js";
import { EventLog, PROTOCOL } from "./events.js";
import { requireMedia } from "./media.js";
import { Peer } from "./peer.js";
import { onVisible } from "./screen.js";
import { closeCall, leaveLine, openCall, restartCall } from "./signalling.js";
import { WaitingRoom, sleep } from "./waiting.js";

/** From the answer to an open data channel, ms. */
const CONNECT_MS = 12_000;
/** When there is reason to believe that the network has changed, a connection that is silent for so long is given up, ms. */
const PROBE_MS = 700;
/** Without any sound or word of the server for so long the connection is shown as lost, ms. Sound comes all the time. */
const QUIET_MS = 1_200;
/** For so long it may come back by itself, ms; then another one is built. */
const SILENCE_MS = 4_000;
const WATCH_MS = 250;
const PING_MS = 2_000;
/** From the goodbye to the end of the connection, ms. */
const FAREWELL_MS = 1_000;
const RETRY_MS = [300, 700, 1500, 3000, 5000];
/** Used when the welcome names no limit: how long a call without a connection is kept, s. */
const RESUME_S = 60;

/** @param {number} ms @returns {Promise<false>} */
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms, false));

export class Call {
  /**
   * @param {import("./media.js").Capture} capture opened once there is a place
   * @param {object} settings
   * @param {"video"|"voice"} settings.mode
   * @param {Record<string, any>} settings.options of the offer
   * @param {() => RTCIceServer[]} settings.iceServers STUN and TURN, if any
   * @param {object} on
   * @param {(phase: import("./state.js").Phase) => void} on.phase
   * @param {(event: import("./events.js").Envelope) => void} on.event
   * @param {(stream: MediaStream) => void} on.stream
   * @param {(taken: boolean) => void} on.picture whether the server takes the camera's picture
   * @param {(ready: import("./state.js").Ready) => void} on.ready the engine's progress while the call waits for it
   * @param {(queue: import("./state.js").Queue) => void} on.queue
   * @param {(sinceMs: number) => void} on.lost nothing has come from the server since then (performance.now())
   * @param {() => void} on.moved another page has the call now, and it goes on there
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
    /** @type {import("./signalling.js").CallKey|null} */
    this.answer = null;
    /** whether it may be taken from another page */
    this.take = false;
    this.waiting = new WaitingRoom({ ...on, phase: (phase) => this.#show(phase) }, this.stop.signal);
    /** @type {import("./state.js").Phase|null} */
    this.phase = null;
    this.resumeS = RESUME_S;
    this.restarting = false;
    /** the server has ended the call, so that there is nothing to hang up */
    this.forgotten = false;
    /** @type {(() => void)|null} */
    this.welcomed = null;
  }

  /** Get a place, open the microphone and connect. */
  async start() {
    const { signal } = this.stop;
    try {
      requireMedia();
      await this.#begin(signal);
      this.#show("live");
      this.#watch();
    } catch (reason) {
      if (!signal.aborted) await this.end("failed", asCallError(reason));
    }
  }

  /**
   * Go back to a call that this tab had before the page was loaded, or that another page has now.
   * @param {import("./lifeline.js").Lifeline} back
   * @throws {CallError} when the microphone is not to be had; the call is then as it was
   */
  async resume({ callId, resumeToken, resumeS, lastIn, nextOut, state }) {
    const { signal } = this.stop;
    try {
      requireMedia();
      await this.capture.open(state.mode);
    } catch (reason) {
      this.stop.abort(reason);
      throw reason;
    }
    if (signal.aborted) return;
    this.answer = { callId, resumeToken };
    Object.assign(this.log, { lastIn, nextOut });
    Object.assign(this, { resumeS, take: true });
    await this.restart("resuming");
    if (!signal.aborted) this.#watch();
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

  /** The page is being left, before its call has begun: give back what it holds on the server. */
  abandon() {
    if (this.answer) closeCall(this.answer);
    else if (this.waiting.ticket) leaveLine(this.waiting.ticket);
  }

  /** The page is being left, perhaps to be loaded again: the server notices at once, and says no more until then. */
  leave() {
    this.peer?.close();
  }

  /** Another page has the call. */
  #yield() {
    const { peer } = this;
    this.stop.abort(new Error("Another page has the call"));
    this.on.moved();
    peer?.close();
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

  /** @param {import("./state.js").Phase} phase */
  #show(phase) {
    if (phase === this.phase || this.stop.signal.aborted) return;
    this.phase = phase;
    this.on.phase(phase);
  }

  /** A place may be gone by the time that the permission is given: then all begins anew. @param {AbortSignal} signal */
  async #begin(signal) {
    for (;;) {
      await this.waiting.place();
      try {
        this.#show("asking");
        await this.waiting.keep(this.capture.open(this.settings.mode));
        signal.throwIfAborted();
        const { ticket } = this.waiting;
        await this.#connect((sdp) => openCall(sdp, this.settings.options, ticket, signal), signal);
        this.waiting.served();
        return;
      } catch (reason) {
        this.capture.close();
        if (!(await this.waiting.mends(reason))) throw reason;
      }
    }
  }

  /**
   * Build a connection and wait for the server's welcome on it.
   * @param {(sdp: string) => Promise<import("./signalling.js").Answer>} signalling
   * @param {AbortSignal} signal
   */
  async #connect(signalling, signal) {
    this.peer?.close();
    const peer = new Peer(this.capture, this.settings.iceServers(), {
      stream: this.on.stream,
      message: (message) => this.#receive(message),
      link: (link) => this.#onLink(peer, link),
    });
    this.peer = peer;
    const welcome = new Promise((resolve) => (this.welcomed = () => resolve(undefined)));
    try {
      const offer = await peer.offer();
      const again = Boolean(this.answer);
      const { sdp, ...key } = await signalling(offer);
      this.answer = key;
      this.take = false;
      if (signal.aborted) {
        await closeCall(this.answer);
        throw signal.reason;
      }
      if (!this.restarting) this.#show("connecting");
      await peer.accept(sdp);
      this.on.picture(peer.takesPicture);
      await within(peer.opened, CONNECT_MS, signal);
      peer.send(this.log.envelope("hello", this.#hello(again)));
      await within(welcome, CONNECT_MS, signal);
      this.welcomed = null;
    } catch (reason) {
      peer.close();
      throw reason;
    }
  }

  /** @param {boolean} again the call goes on */
  #hello(again) {
    return {
      protocol: PROTOCOL,
      caps: ["captions", "playback.report", "frame.used"],
      device: deviceClass(),
      locale: navigator.language,
      ...(again ? { last_seq: this.log.lastIn ?? -1 } : {}),
    };
  }

  /** @param {unknown} message */
  #receive(message) {
    const event = this.log.accept(message);
    if (!event) return;
    if (event.type === "welcome") {
      this.resumeS = event.data.limits?.resume_s ?? this.resumeS;
      this.welcomed?.();
      this.welcomed = null;
    }
    this.on.event(event);
    if (event.type === "session.moved") this.#yield();
    else if (event.type === "error" && event.data.fatal) {
      this.forgotten = true;
      this.end(
        "fatal_error",
        new CallError(event.data.code, { message: event.data.message, retry: event.data.retryable }),
      );
    } else if (event.type === "session.ending" && event.data.in_s === 0) {
      this.forgotten = true;
      this.end("ended", endedByServer(event.data.reason));
    }
  }

  /**
   * @param {Peer} peer
   * @param {import("./peer.js").Link} link
   */
  #onLink(peer, link) {
    if (peer !== this.peer || this.welcomed) return;
    if (link === "lost") this.restart();
    if (link === "unstable") this.#suspect();
  }

  /** The network may have changed: if nothing comes through now, another connection is built at once. */
  async #suspect() {
    const { peer } = this;
    if (!peer || this.restarting) return;
    await peer.heardAt();
    const since = performance.now();
    await pause(PROBE_MS);
    if ((await peer.heardAt()) <= since && peer === this.peer) this.restart();
  }

  /**
   * Say something every two seconds, and look whether anything comes from the other side. The browser's own words for
   * a lost network (`offline`, a muted track) come late or not at all, and say nothing of a server on this machine.
   */
  #watch() {
    const timers = [
      setInterval(() => this.send("ping", { nonce: `${this.log.nextOut}` }), PING_MS),
      setInterval(() => this.#look(), WATCH_MS),
    ];
    const { signal } = this.stop;
    signal.addEventListener("abort", () => timers.forEach(clearInterval));
    const suspect = () => this.#suspect();
    window.addEventListener("online", suspect, { signal });
    // @ts-expect-error only some browsers tell of the kind of network
    navigator.connection?.addEventListener("change", suspect, { signal });
    onVisible(suspect, signal);
  }

  async #look() {
    const { peer } = this;
    const heardAt = await peer?.heardAt();
    if (heardAt === undefined || peer !== this.peer || this.restarting || this.stop.signal.aborted) return;
    const silence = performance.now() - heardAt;
    if (silence <= QUIET_MS) return this.#show("live");
    this.on.lost(heardAt);
    this.#show("reconnecting");
    if (silence > SILENCE_MS) this.restart();
  }

  /** Put a new connection under the call. Runs until it stands, the server has forgotten the call, or time is up. */
  async restart(phase = /** @type {import("./state.js").Phase} */ ("reconnecting")) {
    if (this.restarting || this.stop.signal.aborted || !this.answer) return;
    const { signal } = this.stop;
    const { answer } = this;
    this.restarting = true;
    this.on.lost((await this.peer?.heardAt()) ?? performance.now());
    if (signal.aborted) return;
    this.#show(phase);
    const giveUpAt = performance.now() + this.resumeS * 1000;
    try {
      for (let attempt = 0; ; attempt++) {
        let wait = 0;
        try {
          await this.#connect((sdp) => restartCall(answer, sdp, this.take, signal), signal);
          break;
        } catch (reason) {
          if (signal.aborted) return;
          const error = asCallError(reason);
          if (error.code === "taken_over") return this.#yield();
          if (error.code === "call_gone") {
            this.forgotten = true;
            throw error;
          }
          if (performance.now() > giveUpAt)
            throw error.code === "server_unreachable" ? error : new CallError("call_gone", { cause: error });
          wait = (error.retryAfter ?? 0) * 1000;
        }
        await sleepOffline(Math.max(wait, RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)]), signal);
      }
      this.#show("live");
    } catch (reason) {
      if (!signal.aborted) await this.end("lost", asCallError(reason));
    } finally {
      this.restarting = false;
    }
  }
}

/** Like `sleep`, but ends as soon as the browser finds a network. @param {number} ms @param {AbortSignal} signal */
async function sleepOffline(ms, signal) {
  const found = new Promise((resolve) => window.addEventListener("online", resolve, { once: true, signal }));
  await Promise.race([sleep(ms, signal), found]);
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
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

function deviceClass() {
  const touch = matchMedia("(pointer: coarse)").matches;
  if (!touch) return "desktop";
  return Math.min(screen.width, screen.height) < 600 ? "phone" : "tablet";
}
