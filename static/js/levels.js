/**
 * How loud a stream is, and how its sound is spread over three bands, for drawing.
 *
 * The analyser only listens: playback stays with the <audio> element, because Web Audio output is cut in the
 * background on iOS and may pass by the echo canceller.
 */

/** Mean of the band edges in Hz: chest, vowels, sibilants. */
const BANDS = [
  [80, 400],
  [400, 2000],
  [2000, 7000],
];

const FLOOR_DB = -60;

export class LevelMeter {
  /**
   * @param {AudioContext} context
   * @param {MediaStream} stream
   */
  constructor(context, stream) {
    this.source = context.createMediaStreamSource(stream);
    this.analyser = context.createAnalyser();
    this.analyser.fftSize = 1024;
    this.analyser.smoothingTimeConstant = 0.55;
    this.source.connect(this.analyser);
    this.wave = new Float32Array(this.analyser.fftSize);
    this.spectrum = new Float32Array(this.analyser.frequencyBinCount);
    this.hertzPerBin = context.sampleRate / this.analyser.fftSize;
  }

  /** @returns {number} loudness from 0 (−60 dBFS or less) to 1 (full scale) */
  level() {
    this.analyser.getFloatTimeDomainData(this.wave);
    let sum = 0;
    for (const sample of this.wave) sum += sample * sample;
    const decibel = 10 * Math.log10(sum / this.wave.length + 1e-12);
    return Math.min(1, Math.max(0, 1 - decibel / FLOOR_DB));
  }

  /** @returns {number[]} 0 to 1 for each band */
  bands() {
    this.analyser.getFloatFrequencyData(this.spectrum);
    return BANDS.map(([low, high]) => {
      const first = Math.max(1, Math.round(low / this.hertzPerBin));
      const last = Math.min(this.spectrum.length - 1, Math.round(high / this.hertzPerBin));
      let peak = -120;
      for (let bin = first; bin <= last; bin++) peak = Math.max(peak, this.spectrum[bin]);
      return Math.min(1, Math.max(0, (peak + 85) / 60));
    });
  }

  close() {
    this.source.disconnect();
  }
}
