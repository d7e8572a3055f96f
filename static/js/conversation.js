/**
 * What is said in a call: server events go into the state and the transcript, the person's wishes go out as events.
 */

import { reduce } from "./state.js";
import { MAX_TEXT_BYTES } from "./events.js";
import { AnswerClock } from "./playback.js";
import { TESTING } from "./sound_test.js";

/** Between two reports of how far the loudspeaker is, ms. */
const REPORT_MS = 500;
/** Values of the drawn sound wave per second of a spoken turn. */
const WAVE_MS = 100;

export class Conversation {
  /**
   * @param {import("./state.js").Store} store
   * @param {import("./captions.js").Transcript} transcript
   * @param {import("./playback.js").Playback} playback
   * @param {(type: string, data: Record<string, any>) => boolean} send
   * @param {number} epoch of the newest answer so far; what is older is dropped
   */
  constructor(store, transcript, playback, send, epoch = -1) {
    this.store = store;
    this.transcript = transcript;
    this.playback = playback;
    this.send = send;
    this.clock = new AnswerClock();
    this.epoch = epoch;
    this.reportedAt = 0;
    this.wavedAt = 0;
    this.texts = 0;
  }

  /** @param {import("./events.js").Envelope} event */
  receive(event) {
    const { type, data, epoch = -1 } = event;
    if (type.startsWith("response.") || type.startsWith("assistant.")) {
      if (epoch < this.epoch) return;
      this.epoch = epoch;
    }
    this.store.set(reduce(this.store.state, event, performance.now()));
    switch (type) {
      case "welcome":
        this.#follow(data.answer);
        break;
      case "user.text":
        this.transcript.typed(data.text);
        break;
      case "turn.state":
        this.#onTurn(data.state, epoch);
        break;
      case "user.transcript":
        this.transcript.spoken(data.text, data.delta, data.final);
        break;
      case "response.started":
        this.transcript.begin(epoch);
        break;
      case "assistant.text":
        this.transcript.append(epoch, data.delta, data.starts);
        break;
      case "assistant.timing":
        this.transcript.time(epoch, data.starts);
        break;
      case "response.done":
        this.transcript.finish(epoch, data.status, data.heard_chars);
        if (this.clock.epoch === epoch) (this.#report(), this.clock.stop());
        break;
      default:
    }
  }

  /** Once per drawn frame: words appear with their sound, the spoken turn grows its wave. */
  tick() {
    const now = performance.now();
    if (this.clock.epoch !== null) {
      this.transcript.reach(this.clock.epoch, this.clock.playedMs());
      if (now - this.reportedAt >= REPORT_MS) this.#report();
    }
    if (this.transcript.hearing && this.store.state.phase === "live" && now - this.wavedAt >= WAVE_MS) {
      this.wavedAt = now;
      this.transcript.hearLevel(this.playback.microphone?.level() ?? 0);
    }
  }

  /**
   * @param {string} text
   * @returns {string|null} why it was not sent
   */
  write(text) {
    const trimmed = text.trim();
    if (!trimmed) return null;
    if (new TextEncoder().encode(trimmed).length > MAX_TEXT_BYTES)
      return "This text is too long for one message. Send it in parts.";
    if (!this.send("input.text", { text: trimmed, id: `text-${++this.texts}`, speak: true })) {
      return "There is no connection right now. Send the text again when the call is back.";
    }
    return null;
  }

  /** Stop the answer that is being given. */
  interrupt() {
    this.send("response.cancel", { reason: "stop_button" });
  }

  /** The person says nothing, but is there. */
  stay() {
    this.send("input.present", {});
  }

  /** Play a chime, and hear how much of it comes back through the microphone. */
  testSound() {
    if (this.send("echo.test", {})) this.store.set({ soundTest: TESTING });
  }

  /** @param {import("./media.js").Capture} capture */
  tellMicrophone(capture) {
    this.send("mic.state", { muted: capture.muted || capture.interrupted });
  }

  /** @param {import("./media.js").Capture} capture */
  tellCamera(capture) {
    this.send("camera.state", { muted: !capture.camera, facing: capture.facing, screen: false });
  }

  /** The call is over: nothing more will be said. */
  close() {
    this.clock.stop();
    this.transcript.close();
  }

  /** @param {import("./state.js").Turn} turn @param {number} epoch */
  #onTurn(turn, epoch) {
    if (turn === "hearing") this.transcript.hear();
    else if (turn !== "paused") this.transcript.heardAll();
    if (turn === "speaking" && epoch >= 0 && this.clock.epoch !== epoch)
      this.clock.start(epoch, this.playback.bufferMs);
  }

  /** The connection is new: the clock goes by what the server says. @param {{epoch: number, played_ms: number}} [answer] */
  #follow(answer) {
    if (answer) this.clock.start(answer.epoch, this.playback.bufferMs, answer.played_ms);
    else this.clock.stop();
  }

  #report() {
    this.reportedAt = performance.now();
    this.send("playback.report", {
      epoch: this.clock.epoch,
      played_ms: Math.round(this.clock.playedMs()),
      buffered_ms: Math.round(this.playback.bufferMs),
    });
  }
}
