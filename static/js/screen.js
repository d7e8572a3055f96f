/** The device's screen: kept awake during a call, and its visible part when a keyboard covers the rest. */

export class WakeLock {
  constructor() {
    /** @type {WakeLockSentinel|null} */
    this.lock = null;
  }

  /** Keep the screen on, where the browser can. The system lets go of it when the page is hidden. */
  async request() {
    if (this.lock && !this.lock.released) return;
    this.lock = (await navigator.wakeLock?.request("screen").catch(() => null)) ?? null;
  }

  release() {
    this.lock?.release().catch(() => {});
    this.lock = null;
  }
}

/**
 * @param {() => void} callback called when the page comes back to the front
 * @param {AbortSignal} [signal] until when
 */
export function onVisible(callback, signal) {
  const visible = () => document.visibilityState === "visible" && callback();
  document.addEventListener("visibilitychange", visible, { signal });
  window.addEventListener("pageshow", (event) => event.persisted && callback(), { signal });
}

/** iOS lays the keyboard over the page: the height that is left becomes --viewport-height. */
export function trackViewport() {
  const viewport = window.visualViewport;
  if (!viewport) return;
  const fit = () => {
    if (viewport.scale > 1.01) return;
    document.documentElement.style.setProperty("--viewport-height", `${viewport.height}px`);
    window.scrollTo(0, 0);
  };
  viewport.addEventListener("resize", fit);
  viewport.addEventListener("scroll", fit);
  fit();
}
