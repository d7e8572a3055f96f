/**
 * What the page calls the state of a call: one word for it and one line below, from one place, so that both always
 * agree with each other and with what the dock shows.
 */

import { inForce } from "../state.js";

/** @typedef {import("../state.js").State} State */
/** @typedef {{word: string, hint: string, turn: import("../state.js").Turn}} Words */

/** @type {Record<import("../state.js").Turn, string>} */
const TURN_WORDS = {
  idle: "Ready",
  listening: "Listening",
  hearing: "Hearing you",
  thinking: "Thinking",
  speaking: "Speaking",
  interrupted: "Interrupted",
  paused: "Paused",
  away: "Are you there?",
};

/** @type {Record<Exclude<State["silent"], "">, [string, string]>} */
const SILENT_WORDS = {
  muted: ["You are muted", "Switch the microphone on, or write"],
  held: ["Microphone taken", "Another app holds it. The call goes on when it lets go"],
  lost: ["No microphone", "Choose one in the settings, or write"],
};

/** @type {Partial<Record<import("../state.js").Turn, string>>} */
const PUSH_HINTS = {
  idle: matchMedia("(pointer: coarse)").matches
    ? "Hold the button while you speak"
    : "Hold the button or the space bar while you speak",
  hearing: "Let go when you are done",
  away: "Hold the button and speak, or write",
};

/** @param {State} state @returns {Words} */
export function describe(state) {
  const [word, hint] = state.phase === "live" ? live(state) : away(state);
  return { word, hint, turn: shownTurn(state) };
}

/** Why nothing is heard where it should be: at rest, push-to-talk keeps the microphone off. @param {State} state */
const silence = (state) => (inForce(state, "pushToTalk") && state.silent === "muted" ? "" : state.silent);

/**
 * The server learns a moment later that the microphone is silent; till then it goes on about speech that has ended.
 * @param {State} state
 */
function shownTurn(state) {
  const { phase, turn } = state;
  if (phase !== "live") return "idle";
  return silence(state) && ["hearing", "interrupted", "paused", "away"].includes(turn) ? "listening" : turn;
}

/** @param {State} state @returns {[string, string]} */
function live(state) {
  const turn = shownTurn(state);
  const silent = silence(state);
  if (turn === "speaking") return speaking(state);
  if ((turn === "listening" || turn === "idle") && silent) return SILENT_WORDS[silent];
  if (turn === "paused") return [TURN_WORDS.paused, "No sound arrives from your microphone"];
  if (inForce(state, "pushToTalk")) return [TURN_WORDS[turn], PUSH_HINTS[turn] ?? ""];
  if (turn === "listening") return [TURN_WORDS.listening, state.camera ? "Speak, or show something" : "Just speak"];
  if (turn === "away") return [TURN_WORDS.away, "Just speak, and the call goes on"];
  return [TURN_WORDS[turn], silent === "muted" ? "Your microphone is off" : ""];
}

/** @param {State} state @returns {[string, string]} */
function speaking(state) {
  if (inForce(state, "textOnly")) return ["Writing", ""];
  if (state.held) return [TURN_WORDS.speaking, "Holding on, in case you want to speak"];
  if (state.tapToHear) return [TURN_WORDS.speaking, "The browser plays sound after a tap"];
  return [TURN_WORDS.speaking, silence(state) === "muted" ? "Your microphone is off" : ""];
}

/** @param {State} state @returns {[string, string]} */
function away(state) {
  switch (state.phase) {
    case "start":
      return [readyWord(state), ""];
    case "ended":
      return ["The call has ended", ""];
    case "left":
      return ["Your call is waiting for you", ""];
    case "resuming":
      return ["Going back to your call", "The browser may ask for your microphone again"];
    case "moved":
      return ["Another tab or window has your call now, and this one no longer listens", ""];
    case "asking":
      return ["May it hear you?", `The browser asks for your microphone${state.mode === "video" ? " and camera" : ""}`];
    case "warming":
      return ["Waking the model", readyWord(state)];
    case "queued":
      return waiting(state.queue);
    case "reconnecting":
      return ["Reconnecting", "Nothing gets through right now. The call goes on by itself"];
    default:
      return ["Connecting", ""];
  }
}

/** @param {State["queue"]} queue @returns {[string, string]} */
function waiting(queue) {
  const promise = "The call begins by itself; your microphone is off until then.";
  if (!queue?.position) return ["Everybody is talking", `The line is full, too. This page asks again. ${promise}`];
  const minutes = Math.max(1, Math.round((queue.etaS ?? 0) / 60));
  const wait = queue.etaS ? `About ${minutes} ${minutes === 1 ? "minute" : "minutes"}. ` : "";
  return [queue.position === 1 ? "You are next" : `Number ${queue.position} in line`, wait + promise];
}

/** @param {State} state */
function readyWord({ ready }) {
  if (!ready) return "Looking for the server";
  if (ready.ready) return "Ready when you are";
  const share = typeof ready.progress === "number" ? ` ${Math.round(ready.progress * 100)} %` : "";
  return ready.message ? `${ready.message}${share}` : `The model is waking up${share}`;
}
