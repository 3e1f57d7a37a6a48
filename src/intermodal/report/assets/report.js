"use strict";
// The page's theme, and charts that can be hovered, smoothed and turned logarithmic. Nothing is fetched.

const root = document.documentElement;
function theme(name) {
  root.dataset.theme = name;
  document.querySelectorAll(".themes button").forEach((b) => b.setAttribute("aria-pressed", b.value === name));
}
document.querySelectorAll(".themes button").forEach((b) => b.addEventListener("click", () => theme(b.value)));
theme({ "#dark": "dark", "#light": "light" }[location.hash] || "auto");
document.querySelector(".themes").hidden = false;

const W = 640, H = 240, LEFT = 58, RIGHT = 12, TOP = 10, BOTTOM = 26;
const SVG = "http" + "://www.w3.org/2000/svg"; // a name, not an address

function node(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function written(value) {
  const size = Math.abs(value);
  if (Number.isInteger(value) || size >= 1000) return Math.round(value).toLocaleString("en");
  if (size >= 1) return value.toFixed(size < 100 ? 2 : 1);
  return size >= 0.001 ? value.toFixed(3) : value.toExponential(1);
}

function tickText(value) {
  const tiny = value !== 0 && Math.abs(value) < 1e-4;
  return tiny ? value.toExponential(0) : value.toLocaleString("en", { maximumSignificantDigits: 6 });
}

function ticks(low, high, about) {
  const raw = (high - low) / about, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999), out = [];
  for (let i = Math.ceil(low / step - 1e-9); i <= Math.floor(high / step + 1e-9); i++) out.push(+(i * step).toPrecision(12));
  return out;
}

function smoothed(points, keep) {
  let mean = 0, weight = 0;
  return points.map(([x, y]) => {
    if (y === null) return [x, null];
    mean = keep * mean + (1 - keep) * y;
    weight = keep * weight + (1 - keep);
    return [x, mean / weight];
  });
}

function chart(figure) {
  const series = JSON.parse(figure.querySelector("script").textContent);
  const svg = figure.querySelector("svg"), tip = figure.querySelector(".tip");
  const [grid, lines, cursor] = svg.querySelectorAll("g");
  const smooth = figure.querySelector(".smooth"), log = figure.querySelector(".log");
  const steps = [...new Set(series.flatMap((s) => s.points.map((p) => p[0])))].sort((a, b) => a - b);
  const logX = "logx" in figure.dataset, flat = (x) => (logX ? Math.log10(x) : x);
  let xAt, yAt, shown, at = -1;

  function draw() {
    const keep = smooth ? +smooth.value : 0, turned = (y) => (log && log.checked ? Math.log10(y) : y);
    shown = series.map((s) => (keep ? smoothed(s.points, keep) : s.points));
    const ys = series.flatMap((s) => s.points.map((p) => p[1])).filter((y) => y !== null).map(turned);
    let low = Math.min(...ys), high = Math.max(...ys);
    const room = high > low ? (high - low) * 0.05 : Math.abs(low) * 0.1 || 0.5;
    low -= room; high += room;
    let first = flat(steps[0]), last = flat(steps[steps.length - 1]);
    if (last === first) { first -= 0.5; last += 0.5; }
    xAt = (x) => LEFT + ((flat(x) - first) / (last - first)) * (W - LEFT - RIGHT);
    yAt = (y) => H - BOTTOM - ((turned(y) - low) / (high - low)) * (H - TOP - BOTTOM);
    grid.replaceChildren(); lines.replaceChildren(); cursor.replaceChildren();
    const levels = log && log.checked ? logTicks(low, high) : ticks(low, high, 4);
    for (const y of levels) {
      const height = yAt(y);
      grid.append(node("line", { x1: LEFT, x2: W - RIGHT, y1: height, y2: height }));
      grid.append(node("text", { x: LEFT - 8, y: height + 4, "text-anchor": "end" }, tickText(y)));
    }
    for (const x of logX ? logTicks(first, last) : ticks(first, last, 5))
      grid.append(node("text", { x: xAt(x), y: H - 8, "text-anchor": "middle" }, tickText(x)));
    series.forEach((s, i) => {
      if (keep) lines.append(node("path", { d: path(s.points), class: `line raw c${i}` }));
      lines.append(node("path", { d: path(shown[i]), class: `line c${i}` }));
      if (s.points.length < 30) for (const [x, y] of s.points)
        if (y !== null) lines.append(node("circle", { cx: xAt(x), cy: yAt(y), r: 2.5, class: `dot c${i}` }));
    });
  }

  function logTicks(low, high) {
    const out = [];
    for (let p = Math.floor(low); p <= Math.ceil(high); p++)
      for (const m of high - low > 3 ? [1] : [1, 2, 5]) {
        const y = m * 10 ** p;
        if (Math.log10(y) >= low && Math.log10(y) <= high) out.push(y);
      }
    return out.length > 1 ? out : ticks(10 ** low, 10 ** high, 4).filter((y) => y > 0);
  }

  function path(points) {
    let pen = "M", d = "";
    for (const [x, y] of points) {
      if (y === null) { pen = "M"; continue; }
      d += `${pen}${xAt(x).toFixed(1)} ${yAt(y).toFixed(1)}`;
      pen = "L";
    }
    return d;
  }

  function show(index) {
    at = Math.min(Math.max(index, 0), steps.length - 1);
    const x = steps[at];
    cursor.replaceChildren(node("line", { x1: xAt(x), x2: xAt(x), y1: TOP, y2: H - BOTTOM }));
    tip.replaceChildren();
    tip.append(Object.assign(document.createElement("b"), { textContent: `${figure.dataset.x} ${written(x)}` }));
    shown.forEach((points, i) => {
      const point = points.find((p) => p[0] === x);
      if (!point || point[1] === null) return;
      cursor.append(node("circle", { cx: xAt(x), cy: yAt(point[1]), r: 4, class: `dot c${i}` }));
      const line = document.createElement("span");
      line.append(Object.assign(document.createElement("i"), { className: `key c${i}` }));
      line.append(` ${series.length > 1 ? series[i].name + " " : ""}${written(point[1])}`);
      tip.append(line);
    });
    tip.hidden = false;
    const share = xAt(x) / W;
    tip.style.left = share < 0.5 ? `calc(${share * 100}% + 12px)` : "auto";
    tip.style.right = share < 0.5 ? "auto" : `calc(${(1 - share) * 100}% + 12px)`;
  }

  function hide() { tip.hidden = true; cursor.replaceChildren(); at = -1; }

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), x = ((event.clientX - box.left) / box.width) * W;
    let best = 0;
    steps.forEach((s, i) => { if (Math.abs(xAt(s) - x) < Math.abs(xAt(steps[best]) - x)) best = i; });
    show(best);
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") hide();
    if (move) { event.preventDefault(); show(at < 0 ? (move > 0 ? 0 : steps.length - 1) : at + move); }
  });
  for (const control of [smooth, log]) if (control) control.addEventListener("change", () => { hide(); draw(); });
  draw();
}
document.querySelectorAll("figure.chart").forEach(chart);

document.querySelectorAll("button.copy").forEach((button) => {
  button.hidden = false;
  button.addEventListener("click", () => {
    const done = () => { button.textContent = "copied"; setTimeout(() => { button.textContent = "copy"; }, 1500); };
    const range = document.createRange();
    range.selectNodeContents(button.parentElement.querySelector("code"));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    if (navigator.clipboard) navigator.clipboard.writeText(range.toString()).then(done, () => {});
    else if (document.execCommand("copy")) done();
  });
});
