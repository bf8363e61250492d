// Keeps the page like the monitor: states come as server-sent events, estimates are fetched.

import { Chart, draw, pace } from "/chart.js";

const SILENT_S = 12; // without a word from the server, which speaks every 5 s
const UNREPORTED_S = 20; // without a report of health, of which there is one every 5 s
const LEAST_STALE_S = 180;
const PICTURE_S = 2;
const ROWS = matchMedia("(max-width: 640px)").matches ? 6 : 14;
const RANGES = [["1 h", 3600], ["24 h", 86400], ["7 d", 7 * 86400], ["All", Infinity]];
const RULES = { below: "Low accuracy", change: "Worse than usual", unhealthy: "Monitor unwell" };
const FLAGS = {
  no_calibration: "no calibration", extrapolating: "extrapolating", nothing_selected: "nothing selected",
  uniform_window: "uniform window", duplicated_frames: "duplicated frames", small_window: "small window", collapse: "collapse",
};

const $ = (id) => document.getElementById(id);
let about = null, state = null, rows = [], fetching = false;
let heard = null; // when the server last spoke, ms of this machine
let ahead = 0; // seconds that the device's clock is ahead of this machine's
let range = null, shownRows = ROWS, pictured = 0, picturedFrames = -1, doubtfulOf = null;
let rates = []; // [device seconds, frames seen]

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

const percent = (value) => (value === null || value === undefined ? "unknown" : `${value.toFixed(1)} %`);
const now = () => Date.now() / 1000 + ahead;
const whole = new Intl.NumberFormat("en");

function between(low, high) {
  return low === null ? "" : `${low.toFixed(1)} – ${high.toFixed(1)} %`;
}

function clock(seconds, withDay = false) {
  const date = new Date(seconds * 1000);
  const far = withDay || date.toDateString() !== new Date(now() * 1000).toDateString();
  const day = far ? `${date.toLocaleDateString(undefined, { day: "numeric", month: "short" })} ` : "";
  return day + date.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
}

function length(seconds) {
  const s = Math.max(0, seconds);
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 100) return `${Math.round(s)} s`;
  if (s < 600) return `${(s / 60).toFixed(1)} min`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 48 * 3600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} days`;
}

function ago(seconds) {
  const age = now() - seconds;
  return age < 5 ? "just now" : age < 100 ? `${Math.floor(age)} s ago` : `${length(age)} ago`;
}

// What the page says

function notices() {
  const found = [];
  const silent = heard === null ? 0 : (Date.now() - heard) / 1000;
  const health = state.health;
  if (state.ended) {
    found.push(["warn", "The run has ended.", `These are its last numbers, from ${clock(state.now, true)}.`]);
  } else if (silent > SILENT_S) {
    found.push(["bad", `No connection to the monitor since ${clock(heard / 1000 + ahead)}.`, "What you see is old. Trying again …"]);
  } else if (health && state.now - health.time > UNREPORTED_S) {
    found.push(["bad", `The monitor has not reported for ${length(state.now - health.time)}.`, "It may hang: what you see may be old."]);
  }
  for (const alert of state.alerts) {
    if (alert.on) found.push(["bad", `${RULES[alert.rule] ?? alert.rule}: ${alert.text}`, alert.since === null ? "" : `since ${clock(alert.since)}`]);
  }
  for (const problem of health ? health.problems : []) found.push(["warn", `${problem[0].toUpperCase()}${problem.slice(1)}`, ""]);
  const late = staleness();
  if (late && !state.ended) found.push(["warn", `The newest estimate is ${length(late.age)} old.`, late.usual]);
  return found;
}

/** Return how late the newest estimate is; null while it is not. */
function staleness() {
  const mine = rows.filter((row) => !row.past);
  const last = rows.at(-1);
  if (!last) return null;
  const { median } = pace((mine.length > 3 ? mine : rows).slice(-50));
  const age = now() - last.time;
  if (age < Math.max(LEAST_STALE_S, 3 * (median ?? 600))) return null;
  return { age, usual: median === null ? "It says little about now." : `Usually one comes every ${length(median)}. It says little about now.` };
}

function renderLink(problems) {
  const [kind, text] = state.ended ? ["", "ended"]
    : heard !== null && (Date.now() - heard) / 1000 > SILENT_S ? ["bad", "no connection"]
    : problems.some(([how]) => how === "bad") ? ["bad", "alert"]
    : problems.length ? ["warn", "look here"] : ["good", "live"];
  $("link").className = `pill ${kind}`;
  $("link").querySelector(".text").textContent = text;
}

let told = "";
function renderNotices(found) {
  const text = JSON.stringify(found);
  if (text === told) return; // else a screen reader would read them every second
  told = text;
  $("notices").replaceChildren(...found.map(([kind, title, more]) =>
    make("div", { className: `notice ${kind}` }, make("strong", {}, title), more ? make("span", {}, more) : "")));
}

function renderNow() {
  const last = rows.at(-1);
  if (!last) {
    $("age").textContent = "The first comes when a window is full and its burst is over.";
    return;
  }
  const low = last.accuracy !== null && about.threshold !== null && last.accuracy < about.threshold;
  const below = low || state.alerts.some((alert) => alert.rule === "below" && alert.on);
  $("accuracy").className = below ? "big bad" : "big";
  if (last.accuracy === null) {
    $("accuracy").textContent = "unknown";
    $("interval").textContent = "the bundle has no calibration";
  } else {
    $("accuracy").replaceChildren(last.accuracy.toFixed(1), make("small", {}, "%"));
    $("interval").textContent = `90 % interval ${between(last.low, last.high)}`;
  }
  const truth = last.true === null ? "" : ` · true accuracy ${percent(last.true)}`;
  $("age").textContent = `${ago(last.time)} · ${whole.format(last.frames)} frames · mean confidence ${percent(last.confidence)}${truth}`;
  $("age").title = clock(last.time, true);
  renderGauge(last);
  $("now-flags").replaceChildren(...last.flags.map((flag) =>
    make("li", {}, make("span", { className: "chip" }, FLAGS[flag] ?? flag), ` ${about.reasons[flag] ?? ""}`)));
}

function renderGauge(last) {
  $("gauge").replaceChildren();
  if (last.accuracy === null) return;
  const width = $("gauge").clientWidth || 300, x = (value) => (value / 100) * width;
  const svg = draw("svg", { viewBox: `0 0 ${width} 34` });
  const styles = (element, values) => Object.assign(element.style, values) && element;
  svg.append(
    styles(draw("rect", { x: 0, y: 6, width, height: 10, rx: 5 }), { fill: "var(--sunken)" }),
    styles(draw("rect", { x: x(last.low), y: 6, width: Math.max(4, x(last.high) - x(last.low)), height: 10, rx: 5 }), { fill: "var(--accent)", opacity: .35 }),
  );
  if (about.threshold !== null) {
    svg.append(styles(draw("line", { x1: x(about.threshold), x2: x(about.threshold), y1: 1, y2: 21, "stroke-width": 2 }), { stroke: "var(--bad)" }));
  }
  svg.append(styles(draw("circle", { cx: x(last.accuracy), cy: 11, r: 7.5, "stroke-width": 3 }), { fill: "var(--accent)", stroke: "var(--surface)" }));
  for (const value of [0, 25, 50, 75, 100]) {
    const anchor = value === 0 ? "start" : value === 100 ? "end" : "middle";
    svg.append(styles(draw("text", { x: x(value), y: 32, "text-anchor": anchor, "font-size": 11 }, `${value}`), { fill: "var(--quiet)" }));
  }
  $("gauge").append(svg);
}

function renderAlerts() {
  if (!state.alerts.length) {
    $("alerts").replaceChildren(make("li", { className: "none" },
      "None is set. The monitor’s options ", make("code", {}, "--alert-below"), ", ", make("code", {}, "--alert-on-change"),
      " and ", make("code", {}, "--alert-unhealthy"), " set them."));
    return;
  }
  $("alerts").replaceChildren(...state.alerts.map((alert) => {
    const limit = alert.rule === "below" && about.threshold !== null ? `, under ${about.threshold} %` : "";
    const since = alert.on && alert.since !== null ? ` · since ${clock(alert.since)}` : "";
    return make("li", { className: alert.on ? "on" : "" },
      make("span", { className: "dot" }), make("span", {}, (RULES[alert.rule] ?? alert.rule) + limit),
      make("span", { className: "state" }, alert.on ? "on" : "off"),
      alert.text ? make("span", { className: "note quiet" }, alert.text + since) : "");
  }));
}

function renderNext() {
  const status = state.status ?? { filled: 0, seen: 0, dropped: 0, kept: 0 };
  $("window").value = status.filled / about.window;
  $("window-text").textContent = `${whole.format(status.filled)} of ${whole.format(about.window)} frames`;
  const burst = state.burst;
  $("burst").value = burst ? burst[0] / burst[1] : 0;
  $("burst-text").textContent = burst ? `slice ${burst[0]} of ${burst[1]}` : state.ended ? "ended" : "waits for a window";
  const [first, last] = [rates[0], rates.at(-1)];
  const rate = rates.length > 1 && last[0] > first[0] ? (last[1] - first[1]) / (last[0] - first[0]) : null;
  const total = about.frames_total === null ? "" : ` of ${whole.format(about.frames_total)}`;
  const speed = rate === null || state.ended ? "" : ` · ${rate.toFixed(rate < 10 ? 1 : 0)} a second`;
  $("rate").textContent = `${whole.format(status.seen)}${total} frames seen${speed}`;
}

function renderHealth() {
  const health = state.health;
  if (!health) {
    $("health").replaceChildren(make("div", {}, make("dt", {}, "No report yet")));
    return;
  }
  const source = health.source;
  const facts = [
    ["Source", source.state + (source.frozen ? ", frozen" : "") + (source.black ? ", black" : ""),
      source.state === "live" && !source.frozen && !source.black ? "" : source.state === "starting" || source.state === "ended" ? "" : "bad"],
    ["Last frame", source.last_frame === null ? "none yet" : ago(source.last_frame)],
    ["Frames seen", whole.format(health.seen)],
    ["Kept · near-duplicates", `${whole.format(health.kept)} · ${whole.format(health.dropped)}`],
    ["Frames not taken in time", whole.format(source.dropped)],
    ["Damaged frames", whole.format(source.decode_errors), source.decode_errors ? "warn" : ""],
    ["Reconnects", whole.format(source.reconnects), source.reconnects ? "warn" : ""],
    ["Bursts", whole.format(health.bursts) + (health.burst_failures ? ` · ${whole.format(health.burst_failures)} failed` : ""), health.burst_failures ? "warn" : ""],
    ["Last burst took", health.last_burst_seconds === null ? null : length(health.last_burst_seconds)],
    ["Duty", health.duty === null ? null : `${(100 * health.duty).toFixed(1)} % of the time`],
    ["Temperature", health.temperature === null ? null : `${health.temperature.toFixed(0)} °C`],
    ["Throttled", health.throttled === null ? null : health.throttled ? "yes" : "no", health.throttled ? "warn" : ""],
    ["Power mode", health.power_mode],
    ["Memory", health.memory_bytes ? `${whole.format(Math.round(health.memory_bytes / 2 ** 20))} MiB` : null],
    ["Started", clock(about.began, true)],
    ["Reported", ago(health.time)],
  ];
  $("health").replaceChildren(...facts.filter(([, value]) => value !== null).map(([name, value, kind]) =>
    make("div", {}, make("dt", {}, name), make("dd", { className: kind ?? "" }, value))));
}

function renderLog() {
  const newest = rows.slice(-shownRows).reverse();
  $("log").replaceChildren(...newest.map((row) => {
    const low = row.accuracy !== null && about.threshold !== null && row.accuracy < about.threshold;
    const truth = row.true === null ? "" : make("span", { className: "quiet" }, ` true ${percent(row.true)}`);
    return make("tr", {},
      make("td", {}, clock(row.time)),
      make("td", { className: low ? "number low" : "number" }, make("strong", {}, percent(row.accuracy)), truth),
      make("td", { className: "number" }, between(row.low, row.high)),
      make("td", { className: "number" }, row.seconds === null ? "" : length(row.seconds)),
      make("td", { className: "flags" }, ...row.flags.map((flag) =>
        make("span", { className: "chip", title: about.reasons[flag] ?? "" }, FLAGS[flag] ?? flag))));
  }));
  $("log-empty").hidden = rows.length > 0;
  $("more").hidden = rows.length <= shownRows;
  const used = [...new Set(newest.flatMap((row) => row.flags))];
  $("log-flags").replaceChildren(...used.map((flag) => make("div", {},
    make("dt", {}, make("span", { className: "chip" }, FLAGS[flag] ?? flag)), make("dd", {}, about.reasons[flag] ?? ""))));
}

function renderDoubtful() {
  const key = `${about.began} ${state.newest} ${state.doubtful.length}`;
  if (key === doubtfulOf) return;
  doubtfulOf = key;
  if (state.doubtful.length) {
    $("doubtful-text").textContent = "The frames of the last window to trust least: here deployed and adapted network agree least.";
  }
  $("doubtful").replaceChildren(...state.doubtful.map((frame, i) => {
    const other = frame.adapted === frame.label ? "adapted agrees" : `adapted says ${frame.adapted}`;
    return make("figure", {},
      make("div", { className: "picture" }, make("img", { src: `/frames/doubtful/${i}.jpg?n=${state.newest}`, alt: `Frame taken for ${frame.label}` })),
      make("figcaption", {}, make("strong", {}, frame.label), make("span", {}, `${frame.confidence.toFixed(0)} % sure`), make("span", {}, other)));
  }));
}

function renderCurrent() {
  const seen = state.status ? state.status.seen : 0;
  const health = state.health;
  $("current-text").textContent = health && health.source.last_frame !== null ? ago(health.source.last_frame) : seen ? "" : "no frame yet";
  if (!seen || seen === picturedFrames || Date.now() - pictured < 1000 * PICTURE_S || document.hidden) return;
  [pictured, picturedFrames] = [Date.now(), seen];
  const next = new Image(); // shown when it is there, so that nothing flickers
  next.onload = () => { $("current").src = next.src; $("current").hidden = false; };
  next.src = `/frames/current.jpg?n=${seen}`;
}

// The chart

const chart = new Chart($("chart"), (point) => {
  const many = point.rows.length > 1;
  const lines = [
    make("strong", {}, percent(point.accuracy)),
    make("div", {}, many ? `mean of ${point.rows.length} estimates` : `90 % interval ${between(point.low, point.high)}`),
  ];
  if (point.true !== null) lines.push(make("div", {}, `true accuracy ${percent(point.true)}`));
  lines.push(make("div", { className: "quiet" }, clock(point.time)));
  for (const flag of point.flags) lines.push(make("span", { className: "chip" }, FLAGS[flag] ?? flag), " ");
  return lines;
});

function renderRanges() {
  $("ranges").replaceChildren(...RANGES.map(([text, seconds]) => {
    const button = make("button", { type: "button" }, text);
    button.setAttribute("aria-pressed", String(seconds === range));
    button.onclick = () => { range = seconds; renderRanges(); renderChart(); };
    return button;
  }));
}

function renderChart() {
  const known = rows.filter((row) => row.accuracy !== null);
  const end = state.ended || !known.length ? Math.max(known.at(-1)?.time ?? state.now, about.began) : now();
  const all = end - (known[0]?.time ?? end);
  if (range === null && known.length) {
    range = all > 2 * 86400 ? 86400 : Infinity;
    renderRanges();
  }
  const span = Number.isFinite(range ?? Infinity) ? range : Math.max(60, all * 1.02);
  const uncalibrated = rows.length && !known.length;
  chart.show({
    rows: known, from: end - span, to: end, threshold: about.threshold,
    message: uncalibrated ? "No accuracy: the bundle has no calibration. Run edgewf calibrate on labelled images."
      : known.length ? "No estimate in this range." : "No estimate yet.",
  });
  const shown = known.filter((row) => row.time >= end - span);
  const entry = (text, ...shapes) => make("li", {}, draw("svg", { viewBox: "0 0 20 12" }, ...shapes), text);
  const entries = [
    entry("estimate", draw("path", { class: "line", d: "M0,6h20" })),
    entry("90 % interval", draw("rect", { class: "band", width: 20, height: 12, rx: 2 })),
  ];
  if (shown.some((row) => row.true !== null)) entries.push(entry("true accuracy", draw("path", { class: "truth", d: "M5,6l5,-5l5,5l-5,5z" })));
  if (shown.some((row) => row.flags.length)) entries.push(entry("flagged: doubt it", draw("circle", { class: "flagged", cx: 10, cy: 6, r: 4 })));
  if (about.threshold !== null) entries.push(entry(`alert below ${about.threshold} %`, draw("path", { class: "limit", d: "M0,6h20" })));
  $("legend").replaceChildren(...(known.length ? entries : []));
}

// The clockwork

function render() {
  if (!about || !state) return;
  const found = notices();
  renderNotices(found);
  renderLink(found);
  const silent = heard !== null && (Date.now() - heard) / 1000 > SILENT_S;
  $("main").classList.toggle("old", silent || state.ended);
  renderNow();
  renderAlerts();
  renderNext();
  renderHealth();
  renderDoubtful();
  renderCurrent();
  const last = rows.at(-1);
  const mark = found.some(([kind]) => kind === "bad") ? "⚠ " : "";
  document.title = `${mark}${last && last.accuracy !== null ? `${last.accuracy.toFixed(1)} % · ` : ""}${about.model} · edgewf`;
}

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (answer.status === 401) location.reload(); // to the way in
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

async function meet() {
  const met = await ask("/api/about");
  if (about !== null && met.began !== about.began) location.reload(); // another run
  about = met;
  $("model").textContent = about.model;
  $("source").textContent = about.source;
  $("source").title = about.source;
}

async function catchUp() {
  if (fetching || !state || state.newest === null || state.newest <= (rows.at(-1)?.n ?? 0)) return;
  fetching = true;
  try {
    rows.push(...(await ask(`/api/history?after=${rows.at(-1)?.n ?? 0}`)));
    rows = rows.slice(-5000);
    renderLog();
    renderChart();
    render();
  } catch {
    // The next state tries again.
  } finally {
    fetching = false;
  }
}

function take(news) {
  state = news;
  heard = Date.now();
  ahead = state.now - heard / 1000;
  if (state.status) rates = [...rates.slice(-20), [state.now, state.status.seen]];
  render();
  if (about && !chart.data) renderChart();
  if (about) catchUp();
}

let events = null;
function connect() {
  events?.close();
  events = new EventSource("/api/events");
  events.onopen = () => meet().then(render, () => {});
  events.onmessage = (event) => {
    take(JSON.parse(event.data));
    if (state.ended) events.close();
  };
  events.onerror = () => {
    if (events.readyState !== EventSource.CLOSED) return; // it tries again by itself
    events.close();
  };
}

$("more").onclick = () => { shownRows += 50; renderLog(); };
document.addEventListener("visibilitychange", () => { if (!document.hidden && (events.readyState === EventSource.CLOSED || Date.now() - heard > 1000 * SILENT_S)) connect(); });
addEventListener("resize", render);
setInterval(render, 1000);
setInterval(() => { if (about && state && !state.ended) renderChart(); }, 10000);
setInterval(() => { if (events.readyState === EventSource.CLOSED) ask("/api/state").then(() => connect(), () => {}); }, 5000);
renderRanges();
meet().then(render, () => {}).finally(connect);
