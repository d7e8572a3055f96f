/**
 * The state of the page in one plain object, and how a server event changes it.
 *
 * `reduce` is pure: (state, event) → changed fields. Views subscribe to the store and draw what they are given.
 */

import { SETTINGS } from "./settings.js";
import { measured, refused } from "./sound_test.js";

/**
 * `left`: the page was loaded again and could go back to its call; `resuming`: it does; `moved`: another page has it.
 * @typedef {"start"|"asking"|"warming"|"queued"|"connecting"|"live"|"reconnecting"|"resuming"|"left"|"moved"|"ended"} Phase
 */
/** @typedef {"idle"|"listening"|"hearing"|"thinking"|"speaking"|"interrupted"|"paused"|"away"} Turn */
/** @typedef {{position: number|null, etaS: number|null}} Queue a place in the line; null when the line is full, too */

/**
 * @typedef {object} State
 * @property {Phase} phase where the call is
 * @property {"video"|"voice"} mode what was started
 * @property {Turn} turn the server's turn state
 * @property {boolean} answering true from response.started to response.done
 * @property {boolean} held the answer waits, because somebody makes a sound
 * @property {Record<string, any>|null} config the call's options that are in force; null outside of a call
 * @property {import("./sound_test.js").SoundTest|null} soundTest the one that runs, or the last one of this call
 * @property {Ending|null} ending the end of the call that was announced
 * @property {boolean} talking the person holds the button of push-to-talk
 * @property {boolean} muted
 * @property {"muted"|"held"|"lost"|""} silent why no sound leaves this device, if none does
 * @property {boolean} camera true while the camera sends
 * @property {boolean} pictures whether the server takes the camera's picture
 * @property {boolean} mirrored the self view is mirrored for a camera that faces the person
 * @property {MediaDeviceInfo[]} microphones
 * @property {MediaDeviceInfo[]} cameras
 * @property {MediaDeviceInfo[]} speakers empty where the browser cannot choose one
 * @property {Ready|null} ready the last /ready answer
 * @property {boolean} recorded this call is written to disk by the server
 * @property {{used: number, limit: number}|null} context tokens in the model's memory
 * @property {number} connection 0 none … 4 good
 * @property {string} connectionText the figures behind it
 * @property {number} framesSeen pictures that the model has looked at
 * @property {Queue|null} queue
 * @property {{code: string, message: string, retry: boolean}|null} error
 * @property {string} notice a passing remark
 * @property {boolean} modelAway the model does not answer, or is being restarted: the notice stays until it is back
 * @property {boolean} tapToHear the browser wants a tap before it plays sound
 * @property {number|null} liveSince performance.now() of the first welcome, ms
 * @property {boolean} kept there is a transcript of the last call
 */

/** @typedef {{reason: string, at: number}} Ending why the call ends, and when (performance.now(), ms) */

/**
 * @typedef {object} Ready the answer of GET /ready, as far as the page uses it
 * @property {boolean} ready
 * @property {string} [name]
 * @property {boolean} [trained]
 * @property {boolean} [hears] false for an engine that only reads from a script
 * @property {boolean} [sees] false for a model without eyes: then the page offers no camera
 * @property {string} [note]
 * @property {string[]} [voices] that the model can answer in
 * @property {string[]} [examples] sentences to begin with
 * @property {boolean} [recording]
 * @property {number|null} [progress] 0 to 1
 * @property {string} [message]
 * @property {RTCIceServer[]} [ice_servers] STUN and TURN, where the server was given some
 */

/**
 * Where the person is: before and after a call, in line for one, or in it. What is on the page depends on it first.
 * @param {State} state
 * @returns {"lobby"|"waiting"|"call"}
 */
export function room({ phase }) {
  if (["start", "left", "moved", "ended"].includes(phase)) return "lobby";
  return phase === "queued" || phase === "warming" ? "waiting" : "call";
}

/**
 * The value of a setting that is in force in this call; undefined outside of one.
 * @param {State} state
 * @param {string} name
 */
export function inForce({ config }, name) {
  return config ? SETTINGS[name].read(config) : undefined;
}

/** @typedef {"phase"|"mode"|"pictures"|"mirrored"|"microphones"|"cameras"|"speakers"|"ready"|"notice"|"kept"} Lasting */

/** @returns {State} */
export function initialState() {
  return {
    ...noCall(),
    phase: "start",
    mode: "video",
    pictures: true,
    mirrored: true,
    microphones: [],
    cameras: [],
    speakers: [],
    ready: null,
    notice: "",
    kept: false,
  };
}

/** What is left of a call's state when there is no call. @returns {Omit<State, Lasting>} */
export function noCall() {
  return {
    turn: "idle",
    answering: false,
    held: false,
    config: null,
    soundTest: null,
    ending: null,
    talking: false,
    muted: false,
    silent: "",
    camera: false,
    recorded: false,
    context: null,
    connection: 0,
    connectionText: "",
    framesSeen: 0,
    queue: null,
    error: null,
    modelAway: false,
    tapToHear: false,
    liveSince: null,
  };
}

/** What a warning says about the model. @type {Record<string, boolean>} */
const MODEL_AWAY = { engine_stalled: true, engine_restarting: true, engine_answers: false };

/**
 * What a server event changes. Unknown types change nothing.
 * @param {State} state
 * @param {import("./events.js").Envelope} event
 * @param {number} now ms
 * @returns {Partial<State>}
 */
export function reduce(state, { type, data }, now) {
  switch (type) {
    case "welcome":
      return { recorded: Boolean(data.recorded ?? state.recorded), config: data.config };
    case "session.updated":
      return { config: data.config };
    case "turn.state":
      return { turn: data.state };
    case "response.started":
      return { answering: true, held: false };
    case "response.paused":
      return { held: true };
    case "response.resumed":
      return { held: false };
    case "response.done":
      return { answering: false, held: false };
    case "context":
      return { context: { used: data.used, limit: data.limit } };
    case "frame.used":
      return { framesSeen: state.framesSeen + 1 };
    case "queue.update":
      return { queue: { position: data.position, etaS: data.eta_s ?? null } };
    case "warning":
      return refused(data) ?? { notice: data.message, modelAway: MODEL_AWAY[data.code] ?? state.modelAway };
    case "error":
      return refused(data) ?? (data.fatal ? {} : { notice: data.message });
    case "echo.result":
      return { soundTest: measured(data) };
    case "session.ending":
      return { ending: sooner(state.ending, { reason: data.reason, at: now + 1000 * data.in_s }, now) };
    case "session.ending_withdrawn":
      return state.ending?.reason === data.reason ? { ending: null } : {};
    default:
      return {};
  }
}

/**
 * Of two ends that are announced for different reasons the one that comes first.
 * @param {Ending|null} known
 * @param {Ending} told
 * @param {number} now ms
 */
function sooner(known, told, now) {
  return known && known.reason !== told.reason && known.at > now && known.at < told.at ? known : told;
}

/** An observable object: `set` merges a patch and tells every subscriber which fields changed. */
export class Store {
  /** @param {State} state */
  constructor(state) {
    this.state = state;
    /** @type {Set<(state: State, changed: Set<string>) => void>} */
    this.subscribers = new Set();
  }

  /** @param {Partial<State>} patch */
  set(patch) {
    /** @type {Record<string, unknown>} */
    const now = { ...this.state };
    const changed = new Set(Object.entries(patch).flatMap(([key, value]) => (Object.is(now[key], value) ? [] : [key])));
    if (changed.size === 0) return;
    Object.assign(this.state, patch);
    for (const subscriber of this.subscribers) subscriber(this.state, changed);
  }

  /**
   * Calls back at once with every field, and then at each change.
   * @param {(state: State, changed: Set<string>) => void} subscriber
   */
  subscribe(subscriber) {
    this.subscribers.add(subscriber);
    subscriber(this.state, new Set(Object.keys(this.state)));
  }
}
