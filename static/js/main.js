/** The page: makes the parts and connects them. */

import { Call } from "./call.js";
import { Transcript } from "./captions.js";
import { Conversation } from "./conversation.js";
import { asCallError } from "./errors.js";
import { Capture } from "./media.js";
import { Playback } from "./playback.js";
import { StatsReader, qualityLevel, qualityText } from "./quality.js";
import { closeCall, fetchReady } from "./signalling.js";
import { Store, initialState } from "./state.js";
import { ControlsView } from "./view/controls.js";
import { Orb } from "./view/orb.js";
import { StageView } from "./view/stage.js";
import { TranscriptView } from "./view/transcript.js";
import { WakeLock, onVisible, trackViewport } from "./screen.js";

/** @param {string} id */
const $ = (id) => /** @type {any} */ (document.getElementById(id));
const READY_POLL_MS = 2_000;
const STATS_MS = 1_000;

export const store = new Store(initialState());
const captions = new TranscriptView($("captions"), $("announcer"), $("latest"));
const playback = new Playback($("voice"), (blocked) => store.set({ tapToHear: blocked }));
const wakeLock = new WakeLock();

/** @type {Call|null} */
let call = null;
/** @type {Conversation|null} */
let conversation = null;
/** @type {Capture|null} */
let capture = null;
let stats = new StatsReader();

/** @param {import("./errors.js").CallError|null} error */
const showError = (error) =>
  store.set({ error: error && { code: error.code, message: error.message, retry: error.retry && !inCall() } });
const inCall = () => !["start", "ended"].includes(store.state.phase);

/** @param {"video"|"voice"} mode */
async function start(mode) {
  if (inCall()) return;
  playback.unlock();
  captions.clear();
  store.set({ ...initialState(), mode, phase: "asking", ready: store.state.ready });
  const own = new Capture({
    track: (kind, track) => {
      call?.replace(kind, track);
      if (kind === "audio") playback.listen(own.stream);
    },
    change: () => onCaptureChange(own),
    fault: showError,
  });
  capture = own;
  try {
    const withoutCamera = await own.open(mode);
    if (own.closed) return;
    if (withoutCamera) showError(withoutCamera);
  } catch (reason) {
    own.close();
    playback.stop();
    store.set({ phase: "start" });
    showError(asCallError(reason));
    return;
  }
  controls.showSelf(own.stream);
  store.set({ phase: "connecting" });
  stats = new StatsReader();
  call = new Call(
    own,
    { options: chosenVoice(), iceServers: store.state.ready?.ice_servers ?? [] },
    {
      phase: onPhase,
      event: onEvent,
      stream: (stream) => playback.play(stream),
      ready: (ready) => store.set({ ready }),
      queue: (queue) => store.set({ queue }),
      trouble: onTrouble,
      over: onOver,
    },
  );
  conversation = new Conversation(
    store,
    new Transcript((line) => captions.show(line)),
    playback,
    (type, data) => call?.send(type, data) ?? false,
  );
  await call.start();
}

/** What the person chose before the call; without a choice the server's default holds. */
function chosenVoice() {
  const voice = $("voice-select").value;
  return voice && voice !== "default" ? { voice } : {};
}

/**
 * A missing camera is still missing when the network is back: only the call's own trouble is cleared.
 * @param {import("./errors.js").CallError|null} error
 */
function onTrouble(error) {
  if (error || ["server_full", "network_lost"].includes(store.state.error?.code ?? "")) showError(error);
}

/** @param {import("./state.js").Phase} phase */
function onPhase(phase) {
  store.set({ phase });
  if (phase !== "live") return;
  store.set({ liveSince: store.state.liveSince ?? performance.now() });
  wakeLock.request();
  if (!capture) return;
  conversation?.tellMicrophone(capture);
  conversation?.tellCamera(capture);
}

/** @param {import("./events.js").Envelope} event */
function onEvent(event) {
  if (event.type === "metrics") stats.fromServer(event.data);
  if (event.type === "error" && !event.data.fatal) store.set({ notice: event.data.message });
  conversation?.receive(event);
}

/** @param {import("./errors.js").CallError|null} error */
function onOver(error) {
  conversation?.close();
  capture?.close();
  playback.stop();
  wakeLock.release();
  controls.showSelf(null);
  call = conversation = capture = null;
  store.set({
    phase: "ended",
    turn: "idle",
    answering: false,
    camera: false,
    tapToHear: false,
    liveSince: null,
    context: null,
    framesSeen: 0,
    recorded: false,
    error: null,
  });
  if (error) showError(error);
}

/** @param {Capture} changed */
function onCaptureChange(changed) {
  const { muted, camera } = store.state;
  const { microphones, cameras, speakers, mirrored } = changed;
  store.set({ muted: changed.muted, camera: Boolean(changed.camera), mirrored, microphones, cameras, speakers });
  controls.markDevices(changed.microphone?.getSettings().deviceId, changed.camera?.getSettings().deviceId);
  if (changed.interrupted) store.set({ notice: "Another app holds the microphone. The call goes on when it lets go." });
  if (muted !== changed.muted || changed.interrupted) conversation?.tellMicrophone(changed);
  if (camera !== Boolean(changed.camera)) conversation?.tellCamera(changed);
}

/** Run a wish that may fail; the failure becomes a sentence on the page. @param {() => Promise<void>|undefined} wish */
async function attempt(wish) {
  try {
    await wish();
  } catch (reason) {
    showError(asCallError(reason));
  }
}

const controls = new ControlsView({
  start,
  end: () => (call ? call.end("hang_up") : onOver(null)),
  mute: () => capture?.setMuted(!capture.muted),
  camera: () => attempt(async () => (capture?.camera ? capture.stopCamera() : await capture?.startCamera())),
  flip: () => attempt(async () => capture?.flip()),
  stop: () => conversation?.interrupt(),
  write: (text) => {
    const refused = conversation ? conversation.write(text) : null;
    if (refused) store.set({ notice: refused });
    return Boolean(conversation) && !refused;
  },
  hear: () => {
    playback.unlock();
    attempt(() => playback.retry());
  },
  dismiss: () => store.set({ error: null }),
  retry: () => {
    store.set({ error: null });
    start(store.state.mode);
  },
  device: (kind, deviceId) =>
    attempt(async () => {
      if (kind === "speaker") await playback.useSpeaker(deviceId);
      else if (kind === "microphone") await capture?.useMicrophone(deviceId);
      else await capture?.startCamera({ deviceId: { exact: deviceId } });
    }),
});

const silence = { level: 0, bands: [0, 0, 0] };
const orb = new Orb($("orb"), () => {
  const meter =
    store.state.turn === "hearing" || store.state.turn === "interrupted" ? playback.microphone : playback.voice;
  return meter && store.state.phase === "live" ? { level: meter.level(), bands: meter.bands() } : silence;
});
const stage = new StageView();
store.subscribe((state, changed) => {
  stage.update(state, changed);
  controls.update(state, changed);
  if (changed.has("turn") || changed.has("phase"))
    orb.setTurn(
      state.phase === "live" ? state.turn : state.phase === "start" || state.phase === "ended" ? "idle" : "thinking",
    );
});

/** @param {number} now */
function frame(now) {
  conversation?.tick();
  stage.tick(store.state.liveSince, performance.now());
  orb.frame(now);
  requestAnimationFrame(frame);
}
requestAnimationFrame(frame);

setInterval(async () => {
  const peer = call?.peer;
  if (!peer || store.state.phase !== "live") return;
  const figures = await stats.read(peer.pc);
  if (figures.bufferMs !== null) playback.bufferMs = figures.bufferMs;
  store.set({ connection: qualityLevel(figures), connectionText: qualityText(figures) });
}, STATS_MS);

/** Before a call the page follows the engine's warm-up. */
async function watchReady() {
  if (!inCall()) {
    try {
      store.set({ ready: await fetchReady() });
      if (store.state.error?.code === "server_unreachable") store.set({ error: null });
    } catch (reason) {
      store.set({ ready: null });
      if (!store.state.error) showError(asCallError(reason));
    }
  }
  setTimeout(watchReady, store.state.ready?.ready ? READY_POLL_MS * 5 : READY_POLL_MS);
}
watchReady();

onVisible(() => {
  if (!call) return;
  wakeLock.request();
  attempt(async () => capture?.recover());
  attempt(() => playback.recover());
});
trackViewport();
window.addEventListener("pagehide", () => {
  if (call?.answer) closeCall(call.answer);
});
