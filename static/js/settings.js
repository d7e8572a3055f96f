/**
 * What a person has chosen for their calls: kept on this device, sent with the offer and, in a call, by session.update.
 * Only what was chosen is kept and sent; for the rest the server's own defaults hold.
 */

const KEY = "omni-call.settings";

/** @typedef {Record<string, any>} Options of a call, see app/call/config.py */

/**
 * How long a silence ends a turn: by itself, and where somebody listens for whether the person is done.
 * @type {Record<string, {silenceMs: number, leastMs: number, mostS: number}>}
 */
const EAGERNESS = {
  quick: { silenceMs: 300, leastMs: 160, mostS: 0.8 },
  normal: { silenceMs: 480, leastMs: 280, mostS: 1.2 },
  patient: { silenceMs: 900, leastMs: 400, mostS: 3 },
  slow: { silenceMs: 1500, leastMs: 800, mostS: 4.5 },
};

/**
 * @typedef {object} Setting
 * @property {any} usual its value where nothing was chosen
 * @property {boolean} live whether it can change during a call
 * @property {(value: any) => Options} write the options that stand for a value
 * @property {(config: Options) => any} read the value that stands in a call's options; null for none of ours
 */

/** @param {string} option @param {any} usual @param {boolean} live @returns {Setting} */
const plain = (option, usual, live) => ({
  usual,
  live,
  write: (value) => ({ [option]: value }),
  read: (config) => config[option],
});

/** @type {Record<string, Setting>} */
export const SETTINGS = {
  pushToTalk: {
    usual: false,
    live: true,
    write: (value) => ({ turn: { detection: value ? "push_to_talk" : "vad" } }),
    read: ({ turn }) => turn.detection === "push_to_talk",
  },
  eagerness: {
    usual: "normal",
    live: true,
    write: (value) => {
      const { silenceMs, leastMs, mostS } = EAGERNESS[value];
      return { vad: { end_silence_ms: silenceMs }, turn: { end_of_turn_min_ms: leastMs, end_of_turn_max_s: mostS } };
    },
    read: ({ vad }) =>
      Object.keys(EAGERNESS).find((step) => EAGERNESS[step].silenceMs === vad.end_silence_ms) ?? null,
  },
  interruptible: plain("barge_in", true, true),
  closeLook: plain("hd_video", false, true),
  voice: plain("voice", "default", false),
  language: plain("language", "en", false),
  textOnly: { ...plain("speak", false, false), write: (value) => ({ speak: !value }), read: ({ speak }) => !speak },
  preset: plain("preset", "omni", false),
  prompt: plain("prompt", "", false),
};

/** Silence that ends a turn at each step of eagerness, s. */
export const SILENCE_S = Object.fromEntries(
  Object.entries(EAGERNESS).map(([step, { silenceMs }]) => [step, silenceMs / 1000]),
);

export class Settings {
  constructor() {
    /** @type {Record<string, any>} by name, only what was chosen */
    this.chosen = restore();
  }

  /** @param {string} name */
  get(name) {
    return this.chosen[name] ?? SETTINGS[name].usual;
  }

  /** @param {string} name @param {any} value */
  choose(name, value) {
    this.chosen[name] = value;
    this.#save();
  }

  /** Back to the server's defaults. */
  reset() {
    this.chosen = {};
    this.#save();
  }

  /**
   * The options of a new call. A voice that was chosen with another model, which this one does not have, stays out.
   * @param {string[]|undefined} voices of this model, if they are known
   * @returns {Options}
   */
  forCall(voices) {
    const strange = (/** @type {string} */ name) => name === "voice" && voices && !voices.includes(this.chosen.voice);
    return this.options(Object.keys(this.chosen).filter((name) => !strange(name)));
  }

  /** @param {string[]} names @returns {Options} what they stand for now */
  options(names) {
    /** @type {Options} */
    const options = {};
    for (const name of names) {
      for (const [option, value] of Object.entries(SETTINGS[name].write(this.get(name))))
        options[option] = typeof value === "object" ? { ...options[option], ...value } : value;
    }
    return options;
  }

  /** What was chosen, could hold in this call, and does not yet. @param {Options} config in force @returns {string[]} */
  outstanding(config) {
    return Object.keys(this.chosen).filter(
      (name) => SETTINGS[name].live && SETTINGS[name].read(config) !== this.get(name),
    );
  }

  #save() {
    try {
      localStorage.setItem(KEY, JSON.stringify(this.chosen));
    } catch (reason) {
      console.warn("The settings hold only until the page is left", reason);
    }
  }
}

/** What was kept by this version of the page or another one, as far as this one knows it. */
function restore() {
  let kept;
  try {
    kept = JSON.parse(localStorage.getItem(KEY) ?? "{}");
  } catch {
    return {};
  }
  return Object.fromEntries(
    Object.entries(kept ?? {}).filter(
      ([name, value]) =>
        Object.hasOwn(SETTINGS, name) &&
        typeof value === typeof SETTINGS[name].usual &&
        (name !== "eagerness" || Object.hasOwn(EAGERNESS, value)),
    ),
  );
}
