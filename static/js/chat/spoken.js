/** A spoken answer: played while it comes, and kept as a WAV file to hear again. */

const RATE = 24_000;

export class SpokenAnswer {
  /** @param {AudioContext} context */
  constructor(context) {
    this.context = context;
    /** @type {Int16Array<ArrayBuffer>[]} */
    this.parts = [];
    /** @type {Set<AudioBufferSourceNode>} */
    this.playing = new Set();
    this.until = 0;
  }

  /** @param {Int16Array<ArrayBuffer>} samples mono, 24 kHz, behind what came before */
  add(samples) {
    this.parts.push(samples);
    const buffer = this.context.createBuffer(1, samples.length, RATE);
    buffer.getChannelData(0).set(Float32Array.from(samples, (sample) => sample / 32768));
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.context.destination);
    source.onended = () => this.playing.delete(source);
    this.until = Math.max(this.until, this.context.currentTime + 0.06);
    source.start(this.until);
    this.until += buffer.duration;
    this.playing.add(source);
  }

  stop() {
    for (const source of this.playing) source.stop();
    this.playing.clear();
  }

  /** @returns {Blob|undefined} */
  file() {
    const size = 2 * this.parts.reduce((sum, part) => sum + part.length, 0);
    if (!size) return undefined;
    const head = new DataView(new ArrayBuffer(44));
    const words = { 0: 0x52494646, 8: 0x57415645, 12: 0x666d7420, 36: 0x64617461 }; // RIFF, WAVE, fmt, data
    for (const [place, word] of Object.entries(words)) head.setUint32(Number(place), word);
    head.setUint32(4, 36 + size, true);
    head.setUint32(16, 16, true);
    head.setUint16(20, 1, true);
    head.setUint16(22, 1, true);
    head.setUint32(24, RATE, true);
    head.setUint32(28, 2 * RATE, true);
    head.setUint16(32, 2, true);
    head.setUint16(34, 16, true);
    head.setUint32(40, size, true);
    return new Blob([head, ...this.parts], { type: "audio/wav" });
  }
}
