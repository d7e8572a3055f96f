/** The page: makes the parts and connects them. */

import { Call } from "./call.js";
import { Transcript } from "./captions.js";
import { Conversation } from "./conversation.js";
import { CallError, asCallError } from "./errors.js";
import { dropLifeline, findLifeline, keepLifeline, lifelineOf, mayHear, stateOf, waitsMs } from "./lifeline.js";
import { Capture } from "./media.js";
import { Playback } from "./playback.js";
import { StatsReader, qualityLevel, qualityText } from "./quality.js";
import { CallRecord, download } from "./record.js";
import { WakeLock, onVisible, trackViewport } from "./screen.js";
import { SETTINGS, Settings } from "./settings.js";
import { closeCall, fetchReady } from "./signalling.js";
import { Store, inForce, initialState, noCall, room } from "./state.js";
import { PushToTalk } from "./talk.js";
import { Uplink } from "./uplink.js";
import { ControlsView } from "./view/controls.js";
import { EndingView } from "./view/ending.js";
import { Orb } from "./view/orb.js";
import { SettingsView } from "./view/settings.js";
import { StageView } from "./view/stage.js";
import { TalkView } from "./view/talk.js";
import { TranscriptView } from "./view/transcript.js";
import { describe } from "./view/words.js";

/** @param {string} id */
const $ = (id) => /** @type {any} */ (document.getElementById(id));
const READY_POLL_MS = 2_000;
const STATS_MS = 1_000;
const LEVEL_MS = 100;
/** How soon the tab keeps what is new, ms. */
const KEEP_MS = 1_000;
/** Events that change nothing that is kept. */
const PASSING = new Set(["metrics", "pong", "vad"]);
/** Less speech than this in a gap is not worth a word, s. */
const LEAST_LOST_S = 0.3;

export const store = new Store(initialState());
const captions = new TranscriptView($("captions"), $("announcer"), $("latest"));
const playback = new Playback($("voice"), (blocked) => store.set({ tapToHear: blocked }));
const wakeLock = new WakeLock();
const settings = new Settings();

/** @type {Call|null} */
let call = null;
/** @type {Conversation|null} */
let conversation = null;
/** @type {Capture|null} */
let capture = null;
/** @type {PushToTalk|null} */
let talk = null;
let stats = new StatsReader();
let uplink = new Uplink();
/** @type {CallRecord|null} the transcript of this call or of the last one */
let record = CallRecord.restore();
/** @type {import("./lifeline.js").Lifeline|null} of a call that this page could go back to */
let lifeline = findLifeline();
let keepTimer = 0;

/** @param {import("./errors.js").CallError|null} error */
const showError = (error) =>
  store.set({ error: error && { code: error.code, message: error.message, retry: error.retry && !inCall() } });
const inCall = () => room(store.state) !== "lobby";

/** @param {import("./captions.js").Line} line */
const show = (line) => (captions.show(line), record?.keep(line));

/** @param {"video"|"voice"} mode */
async function start(mode) {
  if (inCall()) return;
  const { ready, kept } = store.state;
  store.set({ ...initialState(), mode, phase: "connecting", ready, kept });
  await assemble().start();
}

/** Go back to the call that this tab had, or that another page has now. */
async function goBack() {
  const back = lifeline;
  if (inCall() || !back) return;
  playback.unlock();
  store.set({ ...initialState(), ...stateOf(back), ready: store.state.ready });
  record ??= new CallRecord("", new Date(back.since).toISOString());
  try {
    await assemble(back).resume(back);
  } catch (reason) {
    release();
    offer(back);
    showError(asCallError(reason));
  }
}

/**
 * The parts of a call, connected with each other.
 * @param {import("./lifeline.js").Lifeline} [back] what to go back to
 */
function assemble(back) {
  playback.unlock();
  const { ready, mode } = store.state;
  const own = new Capture({
    track: (kind, track) => {
      call?.replace(kind, track);
      if (kind === "audio") playback.listen(own.stream);
    },
    change: () => onCaptureChange(own),
    fault: showError,
  });
  own.muted = back?.muted ?? false;
  capture = own;
  controls.showSelf(own.stream);
  stats = new StatsReader();
  uplink = new Uplink();
  call = new Call(
    own,
    { mode, options: settings.forCall(ready?.voices), iceServers: () => store.state.ready?.ice_servers ?? [] },
    {
      phase: onPhase,
      event: onEvent,
      stream: (stream) => playback.play(stream),
      picture: onPicture,
      ready: (ready) => store.set({ ready }),
      queue: (queue) => store.set({ queue }),
      lost: (sinceMs) => uplink.lose(sinceMs),
      moved: onMoved,
      over: onOver,
    },
  );
  conversation = new Conversation(
    store,
    new Transcript(show, back && record?.lines),
    playback,
    (type, data) => call?.send(type, data) ?? false,
    back?.epoch,
  );
  talk = new PushToTalk({
    microphone: (open) => own.setMuted(!open),
    send: (type) => call?.send(type, {}) ?? false,
    talking: (talking) => store.set({ talking }),
    slip: () => store.set({ notice: "Hold it for as long as you speak, then let go." }),
  });
  return call;
}

/** Keep in the tab what it takes to go back to this call. @param {{leftAt?: number, moved?: boolean}} [how] */
function keep(how) {
  clearTimeout(keepTimer);
  keepTimer = 0;
  if (!call?.answer || !conversation || !record || store.state.liveSince === null) return;
  lifeline = { ...lifelineOf(call, store.state, record.save() ? conversation.epoch : null), ...how };
  keepLifeline(lifeline);
}

/** Offer to go back to a call, for as long as the server keeps it. @param {import("./lifeline.js").Lifeline} back */
function offer(back) {
  store.set({ ...noCall(), phase: back.moved ? "moved" : "left", kept: Boolean(record?.entries.length) });
  if (back.moved) return;
  setTimeout(() => {
    if (store.state.phase === "left" && lifeline === back) onOver(new CallError("call_gone"));
  }, waitsMs(back));
}

/** The person does not want to go back. */
function leave() {
  if (lifeline && !lifeline.moved) closeCall(lifeline);
  onOver(null);
}

/** Have the call follow what was chosen, as far as it can change now. @param {string[]} names */
function apply(names) {
  const changing = names.filter((name) => SETTINGS[name].live);
  if (changing.length && store.state.config) call?.send("session.update", settings.options(changing));
}

/** @param {import("./state.js").Phase} phase */
function onPhase(phase) {
  if (phase === "live" && store.state.liveSince === null) {
    record = new CallRecord(store.state.ready?.name ?? "");
    captions.clear();
    store.set({ liveSince: performance.now() });
  }
  store.set({ phase });
  if (phase !== "live") return;
  uplink.regain();
  wakeLock.request();
  if (!capture) return;
  conversation?.tellMicrophone(capture);
  conversation?.tellCamera(capture);
  talk?.regain();
  if (store.state.config) apply(settings.outstanding(store.state.config));
}

/** @param {boolean} taken whether the server takes the camera's picture */
function onPicture(taken) {
  const wanted = store.state.mode === "video";
  store.set({ pictures: taken, mode: taken ? store.state.mode : "voice" });
  if (taken) return;
  capture?.stopCamera();
  if (wanted) showError(new CallError("picture_rejected"));
}

/** @param {import("./events.js").Envelope} event */
function onEvent(event) {
  if (event.type === "metrics") {
    stats.fromServer(event.data);
    ownUp(uplink.mark(event.t));
  }
  conversation?.receive(event);
  if (event.type === "welcome" || event.type === "session.updated")
    talk?.activate(inForce(store.state, "pushToTalk") ?? false);
  if (!PASSING.has(event.type)) keepTimer ||= window.setTimeout(keep, KEEP_MS);
}

/** Words that were spoken while there was no connection. @param {number} lostS */
function ownUp(lostS) {
  if (lostS < LEAST_LOST_S) return;
  const seconds = Math.max(1, Math.round(lostS));
  const length = seconds === 1 ? "About a second" : `About ${seconds} seconds`;
  const remark = `${length} of what you said did not reach the model, because the connection was lost.`;
  captions.remark(remark);
  record?.remark(remark);
  store.set({ notice: `${remark} Please say it again.` });
}

/** Another page has the call. This one lets go of the microphone, and could take the call back. */
function onMoved() {
  keep({ moved: true });
  release();
  if (lifeline) offer(lifeline);
}

/** Let go of all that a call needs. */
function release() {
  talk?.close();
  capture?.close();
  playback.stop();
  wakeLock.release();
  controls.showSelf(null);
  call = conversation = capture = talk = null;
}

/** @param {import("./errors.js").CallError|null} error */
function onOver(error) {
  if (conversation) conversation.close();
  else new Transcript(show, record?.lines).close();
  if (lifeline || store.state.liveSince !== null) record?.save();
  release();
  dropLifeline();
  lifeline = null;
  const kept = Boolean(record?.entries.length);
  store.set({ ...noCall(), phase: kept || store.state.liveSince !== null ? "ended" : "start", kept });
  if (error) showError(error);
}

/** @param {Capture} changed */
function onCaptureChange(changed) {
  const { muted, camera, silent: before } = store.state;
  const { microphones, cameras, speakers, mirrored } = changed;
  const { silent } = changed;
  store.set({ muted: changed.muted, silent, camera: Boolean(changed.camera), mirrored, microphones, cameras, speakers });
  sheet.markDevices(changed.microphone?.getSettings().deviceId, changed.camera?.getSettings().deviceId);
  if (muted !== changed.muted || silent !== before) conversation?.tellMicrophone(changed);
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
  save: (kind) => record && download(record, kind),
  hear: () => {
    playback.unlock();
    attempt(() => playback.retry());
  },
  goBack,
  leave,
  dismiss: () => store.set({ error: null }),
  retry: () => {
    store.set({ error: null });
    if (lifeline) goBack();
    else start(store.state.mode);
  },
});

const sheet = new SettingsView(settings, {
  change: apply,
  test: () => conversation?.testSound(),
  device: (kind, deviceId) =>
    attempt(async () => {
      if (kind === "speaker") await playback.useSpeaker(deviceId);
      else if (kind === "microphone") await capture?.useMicrophone(deviceId);
      else await capture?.startCamera({ deviceId: { exact: deviceId } });
    }),
});

const talkButton = new TalkView($("talk"), {
  press: () => talk?.press(),
  release: () => talk?.release(),
  discard: () => talk?.discard(),
});

const silence = { level: 0, bands: [0, 0, 0] };
const orb = new Orb($("orb"), () => {
  const { turn } = describe(store.state);
  const meter = turn === "hearing" || turn === "interrupted" ? playback.microphone : playback.voice;
  return meter && store.state.phase === "live" ? { level: meter.level(), bands: meter.bands() } : silence;
});
const stage = new StageView();
const ending = new EndingView(() => conversation?.stay());
store.subscribe((state, changed) => {
  stage.update(state, changed);
  ending.update(state, changed);
  controls.update(state, changed);
  talkButton.update(state, changed);
  sheet.update(state, changed);
  if (["turn", "phase", "silent", "held"].some((name) => changed.has(name))) orb.setTurn(mood(state));
});

/** @param {import("./state.js").State} state */
function mood(state) {
  if (room(state) === "call" && state.phase !== "live") return "thinking";
  const { turn } = describe(state);
  return turn === "speaking" && state.held ? "held" : turn;
}

/** @param {number} now */
function frame(now) {
  conversation?.tick();
  stage.tick(store.state.liveSince, performance.now());
  ending.tick(store.state.ending, performance.now());
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

setInterval(() => uplink.hear(playback.microphone?.level() ?? 0), LEVEL_MS);

/** Before a call the page follows the engine's warm-up. */
async function watchReady() {
  if (!inCall()) {
    try {
      store.set({ ready: await fetchReady() });
      if (store.state.error?.code === "server_unreachable") store.set({ error: null });
    } catch (reason) {
      // A server that was started anew has a new key, or forgot who knew the old one: the page asks for it.
      if (asCallError(reason).code === "key_missing") location.reload();
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
  if (!call) return;
  if (store.state.liveSince === null) return call.abandon();
  keep({ leftAt: Date.now() });
  call.leave();
});
// A page that went back by itself may have had no tap yet, without which some browsers play and measure nothing.
document.addEventListener("pointerdown", () => call && playback.unlock());

for (const entry of record?.entries ?? [])
  if ("line" in entry) captions.show(entry.line);
  else captions.remark(entry.remark);
if (!lifeline) record && onOver(null);
else if (lifeline.moved || !(await mayHear())) offer(lifeline);
else goBack();
