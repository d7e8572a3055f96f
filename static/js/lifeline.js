/**
 * What it takes to go back to a call after the page was loaded again. It is kept in the tab (sessionStorage) and goes
 * nowhere else: whoever has it has the call. The transcript beside it (record.js) holds what was said up to `lastIn`; the
 * server repeats what came after that.
 */

const KEY = "omni-call.call";

/**
 * @typedef {object} Lifeline
 * @property {string} callId
 * @property {string} resumeToken
 * @property {number} resumeS how long the server keeps the call without a connection, s
 * @property {number} lastIn the newest event that is part of what was kept, −1 for none
 * @property {number} nextOut
 * @property {number} epoch of the newest answer
 * @property {number} since when the call began, Date.now()
 * @property {number|null} leftAt when the page was left, Date.now(); null while it is there
 * @property {boolean} moved another page has the call
 * @property {boolean} muted
 * @property {import("./state.js").Ending|null} ending the announced end, with Date.now()
 * @property {Pick<import("./state.js").State, "mode"|"turn"|"answering"|"held"|"context"|"framesSeen">} state
 */

/**
 * @param {import("./call.js").Call} call that stands
 * @param {import("./state.js").State} now
 * @param {number|null} epoch of the newest answer in the kept transcript; null where there was no room to keep one
 * @returns {Lifeline}
 */
export function lifelineOf({ answer, resumeS, log }, now, epoch) {
  const { mode, turn, answering, held, context, framesSeen, muted, ending } = now;
  return {
    .../** @type {import("./signalling.js").CallKey} */ (answer),
    resumeS,
    lastIn: epoch === null ? -1 : (log.lastIn ?? -1),
    nextOut: log.nextOut,
    epoch: epoch ?? -1,
    since: (now.liveSince ?? 0) + clockOffset(),
    leftAt: null,
    moved: false,
    muted,
    ending: ending && { ...ending, at: ending.at + clockOffset() },
    state: { mode, turn, answering, held, context, framesSeen },
  };
}

/** How far Date.now(), which outlives the page, is ahead of performance.now(), ms. */
const clockOffset = () => Date.now() - performance.now();

/** The state of a page that goes back. @param {Lifeline} lifeline @returns {Partial<import("./state.js").State>} */
export function stateOf({ state, since, ending }) {
  const at = (/** @type {number} */ date) => date - clockOffset();
  return { ...state, phase: "resuming", liveSince: at(since), ending: ending && { ...ending, at: at(ending.at) } };
}

/** @param {Lifeline} lifeline */
export function keepLifeline(lifeline) {
  try {
    sessionStorage.setItem(KEY, JSON.stringify(lifeline));
  } catch (reason) {
    console.warn("This tab keeps nothing, so the call ends when the page is loaded again", reason);
  }
}

/** @returns {Lifeline|null} of the call that this tab had, unless the server has long forgotten it */
export function findLifeline() {
  try {
    const lifeline = JSON.parse(sessionStorage.getItem(KEY) ?? "null");
    return lifeline && waitsMs(lifeline) > 0 ? lifeline : null;
  } catch {
    return null;
  }
}

export function dropLifeline() {
  try {
    sessionStorage.removeItem(KEY);
  } catch {
    // a tab that keeps nothing has nothing to drop
  }
}

/** How long the server still waits for the page, ms. @param {Lifeline} lifeline */
export function waitsMs({ leftAt, resumeS }) {
  return (leftAt ?? Date.now()) + resumeS * 1000 - Date.now();
}

/** Whether the browser lets the page hear without asking the person first. */
export async function mayHear() {
  try {
    const name = /** @type {PermissionName} */ ("microphone");
    return (await navigator.permissions.query({ name })).state === "granted";
  } catch {
    return false; // a browser that does not tell
  }
}
