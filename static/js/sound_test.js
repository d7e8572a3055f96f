/** The sound test: a chime is played, and the server says what the microphone hears of it. */

/**
 * @typedef {object} SoundTest
 * @property {boolean} running
 * @property {string} line for the person
 * @property {boolean} talk whether push-to-talk would help
 */

/** @type {SoundTest} */
export const TESTING = { running: true, line: "Listening. Stay silent for three seconds …", talk: false };

/** @type {Record<string, string>} */
const LINES = {
  full: "All is well: nothing of the loudspeaker comes back into the microphone.",
  careful: "Some of the loudspeaker comes back into the microphone. If answers pause by themselves, lower the volume.",
  headphones: "The microphone hears the loudspeaker well. Headphones, or a lower volume, make it easier to interrupt.",
  push_to_talk: "The microphone hears nearly all of the loudspeaker. Use headphones or push to talk.",
};
const UNSTEADY = "Something came back that is not steady. Test again in silence; if this stays, use push to talk.";

/** @param {Record<string, any>} data of `echo.result` @returns {SoundTest} */
export function measured({ policy, delay_ms: delayMs }) {
  const talk = policy === "push_to_talk";
  return { running: false, line: talk && delayMs === null ? UNSTEADY : LINES[policy], talk };
}

/** What a warning or an error is about, where it is about the test. @param {Record<string, any>} data */
export function refused({ code, message }) {
  return code.startsWith("echo_test_") ? { soundTest: { running: false, line: message, talk: false } } : null;
}
