/**
 * The assistant, drawn: a ribbon of fine lines that closes on itself. It breathes while it listens, leans in and
 * takes the person's blue while they speak, winds up while it thinks, and is moved by its own voice when it answers.
 */

/** @typedef {import("../state.js").Turn} Turn */

/**
 * @typedef {object} Mood how the ribbon looks in a state; everything between two moods is eased
 * @property {[number, number, number]} from RGB at one end of the sweep
 * @property {[number, number, number]} to RGB at the other
 * @property {number} radius share of half the canvas
 * @property {number} width of the ribbon, likewise
 * @property {number} speed of the flow
 * @property {number} sway of the centre line, at rest
 * @property {number} reach how far sound moves it
 * @property {number} alpha
 */

/** @type {Record<Turn|"held", Mood>} */
const MOODS = {
  idle: {
    from: [64, 104, 226],
    to: [240, 112, 72],
    radius: 0.64,
    width: 0.16,
    speed: 0.4,
    sway: 0.02,
    reach: 0.1,
    alpha: 0.7,
  },
  listening: {
    from: [20, 140, 128],
    to: [70, 120, 200],
    radius: 0.63,
    width: 0.12,
    speed: 0.5,
    sway: 0.016,
    reach: 0.12,
    alpha: 0.75,
  },
  hearing: {
    from: [36, 92, 235],
    to: [40, 160, 220],
    radius: 0.56,
    width: 0.15,
    speed: 0.9,
    sway: 0.02,
    reach: 0.34,
    alpha: 0.85,
  },
  thinking: {
    from: [80, 80, 230],
    to: [200, 70, 140],
    radius: 0.54,
    width: 0.2,
    speed: 2.1,
    sway: 0.03,
    reach: 0.05,
    alpha: 0.8,
  },
  speaking: {
    from: [240, 88, 56],
    to: [246, 168, 60],
    radius: 0.57,
    width: 0.15,
    speed: 0.9,
    sway: 0.02,
    reach: 0.38,
    alpha: 0.9,
  },
  held: {
    from: [240, 88, 56],
    to: [36, 92, 235],
    radius: 0.52,
    width: 0.07,
    speed: 0.25,
    sway: 0.008,
    reach: 0.06,
    alpha: 0.55,
  },
  interrupted: {
    from: [36, 92, 235],
    to: [240, 100, 60],
    radius: 0.5,
    width: 0.06,
    speed: 1.4,
    sway: 0.01,
    reach: 0.2,
    alpha: 0.8,
  },
  away: {
    from: [20, 140, 128],
    to: [70, 120, 200],
    radius: 0.62,
    width: 0.05,
    speed: 0.15,
    sway: 0.008,
    reach: 0.04,
    alpha: 0.5,
  },
  paused: {
    from: [140, 132, 120],
    to: [160, 150, 136],
    radius: 0.6,
    width: 0.03,
    speed: 0.12,
    sway: 0.004,
    reach: 0,
    alpha: 0.55,
  },
};

/** Where no sound moves the ribbon, half the frames do: a screen that waits should not warm the hand. */
const CALM_MS = 30;
const LINES = 26;
const STEPS = 120;
const TAU = Math.PI * 2;

/** @param {number} from @param {number} to @param {number} share */
const mix = (from, to, share) => from + (to - from) * share;

export class Orb {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {() => {level: number, bands: number[]}} sound what moves the ribbon now, all 0 to 1
   */
  constructor(canvas, sound) {
    this.canvas = canvas;
    this.sound = sound;
    this.context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    this.mood = structuredClone(MOODS.idle);
    this.target = MOODS.idle;
    this.level = 0;
    this.drawnLevel = -1;
    this.bands = [0, 0, 0];
    this.phase = 1.7;
    this.before = 0;
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    new ResizeObserver(() => this.#fit()).observe(canvas);
    this.#fit();
  }

  /** @param {Turn|"held"} turn held: an answer that waits, because somebody makes a sound */
  setTurn(turn) {
    this.target = MOODS[turn] ?? MOODS.idle;
    if (this.still.matches) {
      this.mood = structuredClone(this.target);
      this.draw();
    }
  }

  /**
   * Draw one frame. With reduced motion only the loudness is seen, as the strength of the lines.
   * @param {number} now ms
   */
  frame(now) {
    if (now - this.before < (this.target.reach > 0.2 ? 0 : CALM_MS)) return;
    const seconds = Math.min(0.1, (now - this.before) / 1000);
    this.before = now;
    this.#ease(seconds);
    if (this.still.matches) {
      if (Math.abs(this.level - this.drawnLevel) > 0.04) this.draw();
      return;
    }
    this.phase += seconds * this.mood.speed;
    this.draw();
  }

  draw() {
    const { context, mood } = this;
    const { width, height } = this.canvas;
    const half = Math.min(width, height) / 2;
    this.drawnLevel = this.level;
    context.clearRect(0, 0, width, height);
    if (half < 8) return;
    context.save();
    context.translate(width / 2, height / 2);
    this.#pearl(half);
    context.strokeStyle = this.#sweep(half);
    context.lineWidth = Math.max(1, half * 0.0052) * (this.still.matches ? 1 + this.level : 1);
    context.lineJoin = "round";
    for (let line = 0; line < LINES; line++) {
      const across = (line / (LINES - 1)) * 2 - 1;
      context.globalAlpha = mood.alpha * (0.25 + 0.75 * (1 - across * across));
      this.#closedCurve(half, across);
    }
    context.restore();
  }

  /** @param {number} half @param {number} across −1 inner edge … 1 outer edge of the ribbon */
  #closedCurve(half, across) {
    const { context, mood, phase, bands, level } = this;
    const [low, middle, high] = this.still.matches ? [0, 0, 0] : bands;
    const reach = mood.reach * (this.still.matches ? 0 : 1);
    const width = mood.width * (1 + level * 0.9);
    context.beginPath();
    for (let step = 0; step <= STEPS; step++) {
      const angle = (step / STEPS) * TAU;
      const twist = Math.cos(2 * angle + phase) + 0.42 * Math.cos(3 * angle - phase * 1.3 + 1);
      const centre =
        mood.sway * Math.sin(3 * angle + phase * 1.1) +
        reach * 0.26 * low * Math.sin(2 * angle - phase * 1.7) +
        reach * 0.22 * middle * Math.sin(5 * angle + phase * 2.3 + across * 0.8) +
        reach * 0.15 * high * Math.sin(9 * angle - phase * 3.1 + across * 1.6);
      const radius = half * (mood.radius + reach * 0.3 * level + centre + across * 0.5 * width * twist);
      const x = radius * Math.cos(angle);
      const y = radius * Math.sin(angle);
      if (step === 0) context.moveTo(x, y);
      else context.lineTo(x, y);
    }
    context.closePath();
    context.stroke();
  }

  /** The colour runs once around the ribbon and back. @param {number} half */
  #sweep(half) {
    const lift = this.dark.matches ? 0.28 : 0;
    const shade = (/** @type {number[]} */ rgb) =>
      `rgb(${rgb.map((part) => Math.round(mix(part, 255, lift))).join(" ")})`;
    const from = shade(this.mood.from);
    const to = shade(this.mood.to);
    if (!this.context.createConicGradient) {
      const line = this.context.createLinearGradient(-half, -half, half, half);
      line.addColorStop(0, from);
      line.addColorStop(1, to);
      return line;
    }
    const cone = this.context.createConicGradient(this.phase * 0.4, 0, 0);
    cone.addColorStop(0, from);
    cone.addColorStop(0.5, to);
    cone.addColorStop(1, from);
    return cone;
  }

  /** A faint body of light inside. @param {number} half */
  #pearl(half) {
    const { context, mood, level } = this;
    const strength = (this.dark.matches ? 0.16 : 0.1) + 0.16 * level;
    const [red, green, blue] = mood.to.map(Math.round);
    const light = context.createRadialGradient(0, half * 0.1, half * 0.05, 0, 0, half * mood.radius);
    light.addColorStop(0, `rgb(${red} ${green} ${blue} / ${strength})`);
    light.addColorStop(1, `rgb(${red} ${green} ${blue} / 0)`);
    context.globalAlpha = 1;
    context.fillStyle = light;
    context.beginPath();
    context.arc(0, 0, half * mood.radius, 0, TAU);
    context.fill();
  }

  /** @param {number} seconds since the last frame */
  #ease(seconds) {
    const share = 1 - Math.exp(-seconds * 5);
    const { mood, target } = this;
    for (const key of /** @type {const} */ (["radius", "width", "speed", "sway", "reach", "alpha"])) {
      mood[key] = mix(mood[key], target[key], share);
    }
    for (const key of /** @type {const} */ (["from", "to"])) {
      for (let part = 0; part < 3; part++) mood[key][part] = mix(mood[key][part], target[key][part], share);
    }
    const { level, bands } = this.sound();
    const follow = (/** @type {number} */ from, /** @type {number} */ to) =>
      mix(from, to, 1 - Math.exp(-seconds * (to > from ? 28 : 7)));
    this.level = follow(this.level, level);
    this.bands = this.bands.map((band, index) => follow(band, bands[index] ?? 0));
  }

  #fit() {
    const { width, height } = this.canvas.getBoundingClientRect();
    const scale = Math.min(2, window.devicePixelRatio || 1);
    const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
    if (this.canvas.width === w && this.canvas.height === h) return;
    this.canvas.width = w;
    this.canvas.height = h;
    this.draw();
  }
}
