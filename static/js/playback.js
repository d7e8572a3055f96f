/**
 * The assistant's voice: the <audio> element that plays it, the meter that listens to it, and the clock that says
 * how much of the current answer has come out of the loudspeaker.
 */

import { LevelMeter } from "./levels.js";

/** Until the browser tells better: capture to loudspeaker, about one jitter buffer, ms. */
const DEFAULT_BUFFER_MS = 60;

export class Playback {
  /**
   * @param {HTMLAudioElement} element
   * @param {(blocked: boolean) => void} onBlocked the browser wants a tap before it plays
   */
  constructor(element, onBlocked) {
    this.element = element;
    this.onBlocked = onBlocked;
    /** @type {AudioContext|null} */
    this.context = null;
    /** @type {LevelMeter|null} */
    this.voice = null;
    /** @type {LevelMeter|null} */
    this.microphone = null;
    /** @type {{voice: MediaStream|null, microphone: MediaStream|null}} */
    this.streams = { voice: null, microphone: null };
    this.bufferMs = DEFAULT_BUFFER_MS;
  }

  /** Unlock sound. Call it in a tap handler, before anything asynchronous. */
  unlock() {
    this.context ??= new AudioContext({ latencyHint: "interactive" });
    if (this.context.state === "suspended") this.context.resume().catch(() => {});
    this.element.muted = false;
  }

  /** @param {MediaStream} stream the assistant's voice */
  async play(stream) {
    this.streams.voice = stream;
    this.element.srcObject = stream;
    this.#meter("voice");
    await this.retry();
  }

  /** Start the element; a rejection asks for a tap. */
  async retry() {
    try {
      await this.element.play();
      this.onBlocked(false);
    } catch (reason) {
      const name = reason instanceof DOMException ? reason.name : "";
      if (name === "NotAllowedError") this.onBlocked(true);
      else if (name !== "AbortError") throw reason;
    }
  }

  /** @param {MediaStream} stream the person's own, for the level only */
  listen(stream) {
    this.streams.microphone = stream.getAudioTracks().length ? stream : null;
    this.#meter("microphone");
  }

  /** After an interruption (a phone call, the lock screen): a context may run on with a frozen clock. */
  async recover() {
    if (!this.context) return;
    if (this.context.state === "suspended") await this.context.resume().catch(() => {});
    const before = this.context.currentTime;
    await new Promise((resolve) => setTimeout(resolve, 400));
    if (this.context && this.context.state === "running" && this.context.currentTime === before) {
      await this.context.close();
      this.context = new AudioContext({ latencyHint: "interactive" });
      this.#meter("voice");
      this.#meter("microphone");
    }
    if (this.streams.voice && this.element.paused) await this.retry();
  }

  /** @param {string} deviceId */
  async useSpeaker(deviceId) {
    await this.element.setSinkId?.(deviceId);
  }

  stop() {
    this.voice?.close();
    this.microphone?.close();
    this.voice = this.microphone = null;
    this.streams = { voice: null, microphone: null };
    this.element.srcObject = null;
    this.context?.close();
    this.context = null;
  }

  /** @param {"voice"|"microphone"} which */
  #meter(which) {
    this[which]?.close();
    const stream = this.streams[which];
    this[which] = stream && this.context ? new LevelMeter(this.context, stream) : null;
  }
}

/**
 * How far the loudspeaker is in the current answer. It starts with the server's word that the answer sounds, runs
 * with the time, and is corrected by every later position that the server gives.
 */
export class AnswerClock {
  /** @param {() => number} now a steady clock, ms */
  constructor(now = () => performance.now()) {
    this.now = now;
    /** @type {number|null} */
    this.epoch = null;
    this.startedAt = 0;
  }

  /**
   * @param {number} epoch
   * @param {number} bufferMs what the browser holds back before it sounds
   * @param {number} [sentMs] how much of the answer has left the server
   */
  start(epoch, bufferMs, sentMs = 0) {
    this.epoch = epoch;
    this.startedAt = this.now() + bufferMs - sentMs;
  }

  stop() {
    this.epoch = null;
  }

  /** @returns {number} ms of the answer that have sounded */
  playedMs() {
    return this.epoch === null ? 0 : Math.max(0, this.now() - this.startedAt);
  }
}
