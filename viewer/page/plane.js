// An image, or slices of a grid: tiles of the chosen layer in OpenSeadragon, and those of the blocks of levels over it.

import { $, about, allLevels, blockLegend, choice, element, keys, levelChoice, levelSet, remember, remembered, say,
  setText, title, toggle } from "/page/common.js";

const OSD = window.OpenSeadragon;
const last = about.levels.length - 1;
const defaults = {
  layer: "model", level: 0, blocks: "", scale: 3, smooth: true,
  axis: about.planes[0].axis, index: about.planes[0].cells >> 1, x: 0, y: 0, zoom: 0,
};
const state = remembered(defaults);
const within = (value, end) => Math.min(Math.max(Math.trunc(value), 0), end);
state.level = within(state.level, last);
state.scale = within(state.scale, about.scales.length - 1);
if (!about.source || !["source", "error"].includes(state.layer)) state.layer = "model";
const plane = () => about.planes.find((one) => one.axis === state.axis) ?? about.planes[0];
state.index = within(state.index, plane().cells - 1);

const viewer = OSD({
  element: $("#view"), drawer: "canvas", showNavigationControl: false, maxZoomPixelRatio: 32, minZoomImageRatio: 0.5,
  visibilityRatio: 0.3, animationTime: 0.5, maxTilesPerFrame: 6, imageSmoothingEnabled: state.smooth,
  // Without it tiles leave fine lines between them.
  subPixelRoundingForTransparency: OSD.SUBPIXEL_ROUNDING_OCCURRENCES.ALWAYS,
  gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
});
viewer.addHandler("canvas-key", (event) => { event.preventDefaultAction = true; });

// Tiles of a layer whose finest zoom is `finest`: a pixel is 2^finest cells wide there.
function tiles(layer, level, scale, finest) {
  const { axis, size: [width, height], zooms } = plane();
  const key = `/tiles/${layer}/${axis}/${axis === "-" ? 0 : state.index}/${level}/${scale}`;
  const maxLevel = zooms - finest;
  return {
    key, width: width * 2 ** -finest, height: height * 2 ** -finest, minLevel: 0, maxLevel, tileSize: about.tile,
    getTileUrl: (level, x, y) => `${key}/${maxLevel - level + finest}/${x}_${y}.png`,
  };
}

// What is to be seen, from below: the layer, then blocks. The finest level's lie lowest, for coarser lines coincide.
function wantedTiles() {
  const base = tiles(state.layer, state.layer === "source" ? 0 : state.level, state.layer === "error" ? state.scale : 0, 0);
  return [base, ...[...levelSet(state.blocks)].sort().map((level) => tiles("blocks", level, 0, about.block_zoom))];
}

const items = new Map();
let wanted = [];

function show() {
  remember(state, defaults);
  update();
  wanted = wantedTiles();
  for (const source of wanted) {
    if (items.has(source.key)) continue;
    items.set(source.key, null);
    viewer.addTiledImage({ tileSource: source, width: 1, success: ({ item }) => {
      if (![...items.values()].some(Boolean)) goTo(state);
      items.set(source.key, item);
      item.addHandler("fully-loaded-change", settle);
      settle();
    } });
  }
  settle();
}

// Puts what is there in order. The layer seen before stays below until the new one is whole.
function settle() {
  const names = wanted.map(({ key }) => key);
  const whole = (key) => items.get(key)?.getFullyLoaded();
  const kept = (key) => !key.startsWith("/tiles/blocks/") && whole(key) && !whole(names[0]);
  for (const [key, item] of items) {
    if (!item || names.includes(key) || kept(key)) continue;
    items.delete(key);
    viewer.world.removeItem(item);
  }
  const order = [...[...items.keys()].filter((key) => !names.includes(key)), ...names].map((key) => items.get(key));
  order.filter(Boolean).forEach((item, place) => {
    if (viewer.world.getIndexOfItem(item) !== place) viewer.world.setItemIndex(item, place);
  });
  say(names.every(whole) ? "ready" : "loading");
}

function goTo({ x, y, zoom }) {
  viewer.viewport.goHome(true);
  if (zoom > 0) {
    viewer.viewport.zoomTo(zoom, null, true);
    viewer.viewport.panTo(new OSD.Point(x, y), true);
  }
}

function set(changes) {
  Object.assign(state, changes);
  show();
}

const step = (value, by, count) => (value + by + count) % count;
const setLevel = (level) => level <= last && set({ level });
const setLayer = (layer) => (about.source || layer === "model") && set({ layer });
const setScale = (by) => state.layer === "error" && set({ scale: within(state.scale + by, about.scales.length - 1) });
const setIndex = (index) => set({ index: within(index, plane().cells - 1) });
const switchBlocks = () => set({ blocks: state.blocks ? "" : allLevels });
function switchLevelBlocks(level) {
  const levels = levelSet(state.blocks);
  if (!levels.delete(level)) levels.add(level);
  set({ blocks: setText(levels) });
}
function setAxis(axis) {
  const part = (state.index + 0.5) / plane().cells;
  state.axis = axis;
  // Planes of another size begin anew.
  items.clear();
  viewer.world.removeAll();
  set({ index: Math.floor(part * plane().cells), x: 0, y: 0, zoom: 0 });
}
function setSmooth() {
  viewer.drawer.setImageSmoothingEnabled(!state.smooth);
  viewer.imageSmoothingEnabled = !state.smooth;
  set({ smooth: !state.smooth });
}
const zoomBy = (factor) => { viewer.viewport.zoomBy(factor); viewer.viewport.applyConstraints(); };
const panBy = (x, y) => {
  viewer.viewport.panBy(viewer.viewport.deltaPointsFromPixels(new OSD.Point(x, y)));
  viewer.viewport.applyConstraints();
};

const layers = choice("", [
  ["model", "Model", "What the model gives (M)"],
  ["source", "Source", "What it was fitted to (S)"],
  ["error", "Error", "How far they are apart (E)"],
], setLayer);
const levels = levelChoice(setLevel);
const blocks = toggle("Blocks", "Show the blocks that have a network (B)", switchBlocks);
const smooth = toggle("Smooth", "Interpolate between pixels when zoomed in (P)", setSmooth);
const axes = choice("Slice", about.planes.map(({ axis }) => [axis, axis, `Cut along ${axis} (A)`]), setAxis);
const slider = element("input", {
  type: "range", min: 0, title: "The slice (, and .)", oninput: () => setIndex(+slider.value),
});
const place = element("span");

const help = keys({
  m: ["the model", () => setLayer("model")],
  s: [about.source && "the source", () => setLayer("source")],
  e: [about.source && "the error", () => setLayer("error")],
  "[": [about.source && "brighter error", () => setScale(-1)],
  "]": [about.source && "darker error", () => setScale(1)],
  0: ["stop at a level", () => setLevel(0), `0 … ${last}`],
  ...Object.fromEntries(about.levels.slice(1, 10).map((_, j) => [j + 1, ["", () => setLevel(j + 1)]])),
  b: ["blocks", switchBlocks],
  p: ["smooth or sharp pixels", setSmooth],
  a: [about.planes.length > 1 && "the next axis", () =>
    setAxis(about.planes[step(about.planes.indexOf(plane()), 1, about.planes.length)].axis)],
  ",": [about.planes.length > 1 && "one slice back", () => setIndex(state.index - 1)],
  ".": [about.planes.length > 1 && "one slice on", () => setIndex(state.index + 1)],
  "+": ["closer", () => zoomBy(1.5)],
  "=": ["", () => zoomBy(1.5)],
  "-": ["further", () => zoomBy(1 / 1.5)],
  h: ["the whole picture", () => viewer.viewport.goHome()],
  arrowleft: ["move", () => panBy(-80, 0), "← ↑ → ↓"],
  arrowright: ["", () => panBy(80, 0)],
  arrowup: ["", () => panBy(0, -80)],
  arrowdown: ["", () => panBy(0, 80)],
});

$("header").append(
  title(),
  ...(about.bounds ? [element("a", { className: "button", href: "/", textContent: "Surface" })] : []),
  ...(about.source ? [layers.node] : []),
  levels.node,
  ...(about.planes.length > 1 ? [axes.node, slider, place] : []),
  element("span", { className: "space" }), blocks.node, smooth.node, help,
);

function update() {
  layers.update(state.layer);
  levels.update(state.level);
  blocks.update(state.blocks !== "");
  smooth.update(state.smooth);
  axes.update(plane().axis);
  slider.max = plane().cells - 1;
  slider.value = state.index;
  place.textContent = `${plane().axis} ${state.index}`;
  $("#legend").replaceChildren(
    ...(state.layer === "error" ? [errorLegend()] : []),
    ...(state.blocks ? [blockLegend(levelSet(state.blocks), switchLevelBlocks)] : []),
  );
}

function errorLegend() {
  const scale = about.scales[state.scale];
  const most = `${scale}${about.peak ? ` (${+(scale * about.peak).toPrecision(3)} of ${about.peak})` : ""}`;
  const ramp = element("div", { className: "ramp", style: { background: `linear-gradient(90deg, ${about.ramp})` } });
  return element("section", {},
    element("h2", { textContent: "|source − model|, mean over channels" }), ramp,
    element("div", { className: "ends" }, "0",
      element("span", {},
        element("button", { textContent: "−", title: "Brighter ([)", onclick: () => setScale(-1) }), " ",
        element("button", { textContent: "+", title: "Darker (])", onclick: () => setScale(1) }), ` ${most}`)),
    element("p", { textContent: "1 is the full range. Zoomed out, both are compared at the resolution on screen." }));
}

// The line below: the cell under the pointer; the magnification, and the level that this needs.
const where = element("span");
const scale = element("span");
$("#status").append(where, scale);
const size = () => plane().size;
const names = () => (plane().axis === "-" ? "x y" : "x y z".replace(plane().axis, "").trim()).split(/ +/);

$("#view").addEventListener("pointermove", ({ clientX, clientY }) => {
  const box = $("#view").getBoundingClientRect();
  const point = viewer.viewport.pointFromPixel(new OSD.Point(clientX - box.left, clientY - box.top));
  const cell = [point.x, point.y].map((part) => Math.floor(part * size()[0]));
  const inside = cell.every((n, axis) => n >= 0 && n < size()[axis]);
  where.textContent = inside ? names().map((name, axis) => `${name} ${cell[axis]}`).join("   ") : "";
});

function measure() {
  const ratio = viewer.viewport.getZoom(true) * viewer.viewport.getContainerSize().x / size()[0];
  const zoom = within(Math.ceil(Math.log2(viewer.minPixelRatio / ratio / window.devicePixelRatio)), plane().zooms);
  const percent = ratio < 1 ? +(ratio * 100).toPrecision(3) : Math.round(ratio * 100);
  const means = zoom > last ? ", averaged" : "";
  scale.textContent = `${about.size.join(" × ")} ${about.mode} ${about.dtype} · ${percent} %`
    + ` · level ${Math.max(state.level, Math.min(zoom, last))}${means}`;
}
viewer.addHandler("update-viewport", measure);
viewer.addHandler("animation-finish", () => {
  const { x, y } = viewer.viewport.getCenter();
  const zoom = viewer.viewport.getZoom();
  const home = Math.abs(zoom / viewer.viewport.getHomeZoom() - 1) < 1e-3;
  const round = (number) => +number.toPrecision(6);
  Object.assign(state, home ? { x: 0, y: 0, zoom: 0 } : { x: round(x), y: round(y), zoom: round(zoom) });
  remember(state, defaults);
});

show();
