/** A spoken turn as the sound it was: one bar per tenth of a second, as an SVG that scales with its line. */

const SVG = "http://www.w3.org/2000/svg";
/** Bars that fit side by side; a longer turn is drawn with its neighbours merged. */
const MOST_BARS = 64;
const HEIGHT = 30;
const PITCH = 6;

export class Wave {
  constructor() {
    this.element = document.createElementNS(SVG, "svg");
    this.element.setAttribute("class", "wave");
    this.element.setAttribute("viewBox", `0 0 ${MOST_BARS * PITCH} ${HEIGHT}`);
    this.element.setAttribute("preserveAspectRatio", "xMinYMid meet");
    this.element.setAttribute("role", "img");
    this.element.setAttribute("aria-label", "What you said");
    this.path = document.createElementNS(SVG, "path");
    this.path.setAttribute("stroke", "currentcolor");
    this.path.setAttribute("stroke-width", "3");
    this.path.setAttribute("stroke-linecap", "round");
    this.element.append(this.path);
  }

  /** @param {number[]} levels 0 to 1 */
  draw(levels) {
    const each = Math.max(1, Math.ceil(levels.length / MOST_BARS));
    const bars = [];
    for (let first = 0; first < levels.length; first += each) bars.push(Math.max(...levels.slice(first, first + each)));
    this.path.setAttribute(
      "d",
      bars
        .map((level, index) => {
          // Speech lies between −45 and −5 dBFS; below that is the room.
          const height = Math.max(0, Math.min(1, (level - 0.25) / 0.65)) * (HEIGHT - 6);
          return `M${index * PITCH + 3} ${HEIGHT / 2 - height / 2}v${Math.max(0.01, height).toFixed(1)}`;
        })
        .join(""),
    );
  }
}
