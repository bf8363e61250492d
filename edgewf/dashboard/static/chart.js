// Accuracy over time as SVG: a band for the 90 % interval, a line, and a point an estimate.

const SVG = "http://www.w3.org/2000/svg";
const MINUTE = 60, HOUR = 3600, DAY = 86400;
const STEPS = [10, 30, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR,
  2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 14 * DAY, 28 * DAY, 91 * DAY, 364 * DAY];
const MARGIN = { top: 12, right: 14, bottom: 26, left: 46 };
const ROOM_FOR_POINTS = 9; // pixels an estimate

/** Return an SVG element with these attributes and children. */
export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Return seconds between estimates: their median, and the length from which one is a gap. */
export function pace(rows) {
  const gaps = rows.slice(1).map((row, i) => row.time - rows[i].time).filter((gap) => gap > 0);
  gaps.sort((a, b) => a - b);
  const median = gaps.length ? gaps[gaps.length >> 1] : null;
  return { median, gap: median === null ? Infinity : Math.max(6 * median, 10 * MINUTE) };
}

/** Join estimates that would share pixels: mean accuracy, widest interval. */
function joined(rows, most) {
  if (rows.length <= most) return rows.map((row) => ({ ...row, rows: [row] }));
  const first = rows[0].time, span = rows.at(-1).time - first || 1;
  const buckets = new Map();
  for (const row of rows) {
    const key = Math.min(most - 1, Math.floor(((row.time - first) / span) * most));
    if (!buckets.has(key)) buckets.set(key, []);
    buckets.get(key).push(row);
  }
  const mean = (list) => (list.length ? list.reduce((a, b) => a + b, 0) / list.length : null);
  return [...buckets.values()].map((some) => ({
    rows: some,
    time: mean(some.map((r) => r.time)),
    accuracy: mean(some.map((r) => r.accuracy)),
    low: Math.min(...some.map((r) => r.low ?? r.accuracy)),
    high: Math.max(...some.map((r) => r.high ?? r.accuracy)),
    true: mean(some.filter((r) => r.true !== null).map((r) => r.true)),
    flags: [...new Set(some.flatMap((r) => r.flags))],
  }));
}

export class Chart {
  /**
   * @param {HTMLElement} place what it fills.
   * @param {(point: object) => Node[]} describe content of the tip at a point.
   */
  constructor(place, describe) {
    this.place = place;
    this.describe = describe;
    this.svg = draw("svg", { tabindex: 0, role: "img" });
    this.tip = Object.assign(document.createElement("div"), { className: "tip", hidden: true });
    this.empty = Object.assign(document.createElement("p"), { className: "empty" });
    place.append(this.svg, this.empty, this.tip);
    this.data = null;
    this.points = [];
    this.at = null; // index of the point that is looked at
    new ResizeObserver(() => this.render()).observe(place);
    this.svg.addEventListener("pointermove", (event) => this.#point(event));
    this.svg.addEventListener("pointerdown", (event) => this.#point(event));
    this.svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && this.#look(null));
    this.svg.addEventListener("blur", () => this.#look(null));
    this.svg.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Show rows (oldest first, with an accuracy) from `from` to `to`, seconds since the epoch. */
  show(data) {
    this.data = data;
    this.render();
  }

  render() {
    const { width, height } = this.place.getBoundingClientRect();
    if (!this.data || width < 60) return;
    const { from, to, threshold, message } = this.data;
    const rows = this.data.rows.filter((row) => row.time >= from && row.time <= to);
    this.empty.textContent = rows.length ? "" : message;
    this.empty.hidden = rows.length > 0;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("aria-label", this.#summary(rows));
    const right = width - MARGIN.right, bottom = height - MARGIN.bottom;
    const [lowest, highest, stride] = scale(rows, threshold);
    const span = Math.max(1, to - from);
    const x = (time) => MARGIN.left + ((time - from) / span) * (right - MARGIN.left);
    const y = (value) => bottom - ((value - lowest) / (highest - lowest)) * (bottom - MARGIN.top);
    this.points = joined(rows, Math.floor((right - MARGIN.left) / 3)).map((p) => ({ ...p, x: x(p.time), y: y(p.accuracy) }));

    const parts = [];
    for (let value = lowest; value <= highest; value += stride) {
      parts.push(draw("line", { class: value === lowest ? "axis" : "grid", x1: MARGIN.left, x2: right, y1: y(value), y2: y(value) }));
      parts.push(draw("text", { x: MARGIN.left - 8, y: y(value) + 4, "text-anchor": "end" }, `${value} %`));
    }
    for (const [time, text] of ticks(from, to, Math.max(2, Math.floor((right - MARGIN.left) / 95)))) {
      const place = x(time);
      if (place < MARGIN.left + 12 || place > right - 14) continue;
      parts.push(draw("line", { class: "axis", x1: place, x2: place, y1: bottom, y2: bottom + 4 }));
      parts.push(draw("text", { x: place, y: bottom + 19, "text-anchor": "middle" }, text));
    }
    const { gap } = pace(this.data.rows);
    for (const run of runs(this.points, gap)) {
      const upper = run.map((p) => `${p.x},${y(p.high ?? p.accuracy)}`);
      const lower = run.map((p) => `${p.x},${y(p.low ?? p.accuracy)}`).reverse();
      if (run.length > 1) {
        parts.push(draw("polygon", { class: "band", points: [...upper, ...lower].join(" ") }));
        parts.push(draw("polyline", { class: "line", points: run.map((p) => `${p.x},${p.y}`).join(" ") }));
      } else {
        const top = y(run[0].high ?? run[0].accuracy), depth = y(run[0].low ?? run[0].accuracy) - top;
        parts.push(draw("rect", { class: "band", x: run[0].x - 3, width: 6, y: top, height: depth, rx: 3 }));
      }
    }
    if (threshold !== null) {
      parts.push(draw("line", { class: "limit", x1: MARGIN.left, x2: right, y1: y(threshold), y2: y(threshold) }));
    }
    const crowded = this.points.length > 1 && (right - MARGIN.left) / this.points.length < ROOM_FOR_POINTS;
    const small = (right - MARGIN.left) / this.points.length < 2 * ROOM_FOR_POINTS;
    this.points.forEach((p, i) => {
      if (p.true !== null && !crowded) parts.push(draw("path", { class: "truth", d: `M${p.x - 5},${y(p.true)}l5,-5l5,5l-5,5z` }));
      if (crowded && i < this.points.length - 1) return;
      const low = threshold !== null && p.accuracy < threshold ? " low" : "";
      parts.push(draw("circle", { class: `point${small ? " small" : ""}${p.flags.length ? " flagged" : ""}${low}`, cx: p.x, cy: p.y, r: small ? 3 : 4.5 }));
    });
    this.cross = draw("g");
    parts.push(this.cross);
    this.edges = { top: MARGIN.top, bottom, width };
    this.svg.replaceChildren(...parts);
    this.#look(this.at === null ? null : Math.min(this.at, this.points.length - 1));
  }

  #summary(rows) {
    if (!rows.length) return "No estimates in this range";
    const values = rows.map((row) => row.accuracy);
    const text = (value) => value.toFixed(1);
    return `${rows.length} estimates from ${text(Math.min(...values))} to ${text(Math.max(...values))} %, the last ${text(values.at(-1))} %`;
  }

  #point(event) {
    const x = event.clientX - this.svg.getBoundingClientRect().left;
    let best = null;
    this.points.forEach((p, i) => {
      if (best === null || Math.abs(p.x - x) < Math.abs(this.points[best].x - x)) best = i;
    });
    this.#look(best);
  }

  #key(event) {
    const last = this.points.length - 1;
    const moves = { ArrowLeft: (this.at ?? last + 1) - 1, ArrowRight: (this.at ?? last) + 1, Home: 0, End: last };
    if (event.key === "Escape") this.#look(null);
    if (!(event.key in moves) || last < 0) return;
    event.preventDefault();
    this.#look(Math.max(0, Math.min(last, moves[event.key])));
  }

  #look(index) {
    this.at = index !== null && index >= 0 ? index : null;
    this.tip.hidden = this.at === null;
    if (!this.cross) return;
    this.cross.replaceChildren();
    if (this.at === null) return;
    const p = this.points[this.at];
    this.cross.append(
      draw("line", { class: "cross", x1: p.x, x2: p.x, y1: this.edges.top, y2: this.edges.bottom }),
      draw("circle", { class: "point", cx: p.x, cy: p.y, r: 6 }),
    );
    this.tip.replaceChildren(...this.describe(p));
    const { width, height } = this.tip.getBoundingClientRect();
    const beside = p.x + 14 + width > this.edges.width ? p.x - 14 - width : p.x + 14;
    const level = Math.max(0, Math.min(this.edges.bottom - height, p.y - height / 2));
    this.tip.style.transform = `translate(${Math.max(0, beside)}px, ${level}px)`;
  }
}

/** Return lowest and highest percentage and the step between labels. */
function scale(rows, threshold) {
  const values = rows.flatMap((row) => [row.low, row.high, row.accuracy, row.true]).filter((v) => v !== null);
  if (threshold !== null) values.push(threshold);
  if (!values.length) return [0, 100, 25];
  let lowest = Math.max(0, Math.floor((Math.min(...values) - 2) / 10) * 10);
  let highest = Math.min(100, Math.ceil((Math.max(...values) + 2) / 10) * 10);
  while (highest - lowest < 30) {
    if (highest < 100) highest += 10;
    else lowest -= 10;
  }
  if (highest - lowest <= 50) return [lowest, highest, 10];
  lowest = Math.floor(lowest / 20) * 20;
  highest = Math.ceil(highest / 20) * 20;
  return [lowest, highest, 20];
}

/** Cut points where nothing was estimated for so many seconds. */
function runs(points, gap) {
  const result = [];
  points.forEach((point, i) => {
    if (i === 0 || point.time - points[i - 1].time > gap) result.push([]);
    result.at(-1).push(point);
  });
  return result;
}

/** Return [time, label] on round local times, `most` at the most. */
function ticks(from, to, most) {
  const step = STEPS.find((s) => (to - from) / s <= most) ?? STEPS.at(-1);
  const offset = (time) => new Date(time * 1000).getTimezoneOffset() * MINUTE;
  const found = [];
  const shift = offset(to);
  for (let t = Math.ceil((from - shift) / step) * step + shift; t <= to; t += step) {
    const time = step >= DAY ? t + offset(t) - shift : t; // midnight in summer and winter
    const date = new Date(time * 1000);
    const midnight = date.getHours() + date.getMinutes() + date.getSeconds() === 0;
    const options = step >= DAY || midnight ? { day: "numeric", month: "short" }
      : { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...(step < MINUTE ? { second: "2-digit" } : {}) };
    found.push([time, date.toLocaleString(undefined, options)]);
  }
  return found;
}
