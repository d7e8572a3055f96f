/**
 * How good the connection is: the browser's own figures, read once a second, with the server's beside them.
 */

/**
 * @typedef {object} Figures
 * @property {number|null} rttMs
 * @property {number} loss share of packets lost in the last interval, both directions, the worse one
 * @property {number|null} jitterMs
 * @property {number|null} bufferMs what the browser's jitter buffer held back in the last interval
 */

/** Limits of the levels 4, 3 and 2: a call is pleasant, usable, hard. */
const LIMITS = [
  { level: 4, rttMs: 150, loss: 0.01 },
  { level: 3, rttMs: 300, loss: 0.04 },
  { level: 2, rttMs: 600, loss: 0.1 },
];

/** @param {Figures} figures @returns {number} 1 to 4 */
export function qualityLevel({ rttMs, loss }) {
  return LIMITS.find((limit) => (rttMs ?? 0) <= limit.rttMs && loss <= limit.loss)?.level ?? 1;
}

/** @param {Figures} figures @returns {string} */
export function qualityText({ rttMs, loss }) {
  const word = ["", "poor", "fair", "good", "very good"][qualityLevel({ rttMs, loss, jitterMs: null, bufferMs: null })];
  const delay = rttMs === null ? "" : `, ${Math.round(rttMs)} ms`;
  const lost = loss >= 0.005 ? `, ${(loss * 100).toFixed(1)} % lost` : "";
  return `Connection ${word}${delay}${lost}`;
}

/** Reads getStats of one connection and turns its ever-growing counters into figures of the last interval. */
export class StatsReader {
  constructor() {
    /** @type {{received: number, lost: number, delay: number, emitted: number}|null} */
    this.before = null;
    /** loss of the person's own sound as the server counts it */
    this.uplinkLoss = 0;
  }

  /** @param {Record<string, any>} metrics a `metrics` event of the server */
  fromServer({ loss }) {
    if (typeof loss === "number") this.uplinkLoss = loss;
  }

  /**
   * @param {RTCPeerConnection} pc
   * @returns {Promise<Figures>}
   */
  async read(pc) {
    let rttMs = null;
    let inbound = null;
    for (const report of (await pc.getStats()).values()) {
      if (
        report.type === "candidate-pair" &&
        report.state === "succeeded" &&
        report.currentRoundTripTime !== undefined
      ) {
        rttMs = report.currentRoundTripTime * 1000;
      } else if (report.type === "inbound-rtp" && report.kind === "audio") {
        inbound = report;
      }
    }
    if (!inbound) return { rttMs, loss: this.uplinkLoss, jitterMs: null, bufferMs: null };
    const now = {
      received: inbound.packetsReceived ?? 0,
      lost: inbound.packetsLost ?? 0,
      delay: inbound.jitterBufferDelay ?? 0,
      emitted: inbound.jitterBufferEmittedCount ?? 0,
    };
    const before = this.before ?? { received: 0, lost: 0, delay: 0, emitted: 0 };
    this.before = now;
    const packets = now.received - before.received + Math.max(0, now.lost - before.lost);
    const downlinkLoss = packets > 0 ? Math.max(0, now.lost - before.lost) / packets : 0;
    const emitted = now.emitted - before.emitted;
    return {
      rttMs,
      loss: Math.max(downlinkLoss, this.uplinkLoss),
      jitterMs: inbound.jitter === undefined ? null : inbound.jitter * 1000,
      bufferMs: emitted > 0 ? ((now.delay - before.delay) / emitted) * 1000 : null,
    };
  }
}
